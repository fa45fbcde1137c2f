"""The API's application: its routes, and the one place where errors become answers."""

from __future__ import annotations

import logging
import traceback

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from greenroom.api import claims, exec_stream, logs, pools
from greenroom.api.state import ApiState, State
from greenroom.core.errors import GreenroomError, UsageError

_log = logging.getLogger("greenroom.api")


def make_app(state: ApiState) -> FastAPI:
    """The application over ``state``; starts nothing."""
    app = FastAPI(title="Greenroom", docs_url=None, redoc_url=None)
    app.state.greenroom = state
    app.include_router(claims.router)
    app.include_router(exec_stream.router)
    app.include_router(pools.router)
    app.include_router(logs.router)
    app.add_api_route("/healthz", healthz)
    app.add_api_route("/readyz", readyz)
    app.add_api_route("/metrics", metrics)
    app.add_exception_handler(GreenroomError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(Exception, _bug)
    return app


async def healthz() -> dict[str, bool]:
    """Whether this process answers."""
    return {"ok": True}


async def readyz(state: State) -> dict[str, object]:
    """Whether Temporal answers too. Raises TemporalError."""
    return {"ok": True, "pools": await state.client.pools()}


async def metrics(state: State) -> Response:
    """The pools' counts in Prometheus' text format."""
    found = await pools.statuses(state)
    return Response(
        state.metrics.render(found), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


def document(error: GreenroomError) -> dict[str, object]:
    """An error as programs see it."""
    return {"error": error.code, "message": error.message, "details": error.details}


async def _refused(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, GreenroomError):
        raise error
    return JSONResponse(document(error), status_code=error.http_status)


async def _malformed(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    problems = "; ".join(
        f"{'.'.join(str(part) for part in problem['loc'][1:]) or 'body'}: {problem['msg']}"
        for problem in error.errors()
    )
    usage = UsageError(problems)
    return JSONResponse(document(usage), status_code=usage.http_status)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    last = traceback.format_exception_only(error)[-1].strip()
    return JSONResponse(
        {"error": "internal", "message": f"a bug in the API: {last}", "details": {}},
        status_code=500,
    )
