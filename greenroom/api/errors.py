"""How errors leave the API: one document, one table of codes (``core.errors``), two headers."""

from __future__ import annotations

import logging
import math
import traceback
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from greenroom.core.errors import (
    GreenroomError,
    NotFoundError,
    RateLimitError,
    UnauthorizedError,
    UsageError,
    WrongMethodError,
)

REQUEST_ID = "greenroom.request_id"
GRANT = "greenroom.grant"
TEMPLATE = "greenroom.template"
"""Keys of a connection's scope. Without a grant the caller came over the Unix socket; the template
is the path's in ``access.RULES``."""
_log = logging.getLogger("greenroom.api")


class ErrorDocument(BaseModel):
    """Every answer of 400 and above. ``error`` is a code that stays; ``message`` is for people."""

    error: str
    message: str
    details: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    request_id: str = ""


class Refused(HTTPException):
    """An error that is raised where the framework would hide any other exception."""

    def __init__(self, error: GreenroomError) -> None:
        super().__init__(error.http_status)
        self.error = error


def document(error: GreenroomError, request_id: str = "") -> dict[str, Any]:
    """An error as programs see it."""
    return {
        "error": error.code,
        "message": error.message,
        "details": error.details,
        "request_id": request_id,
    }


def answer(error: GreenroomError, scope: Scope) -> JSONResponse:
    """The response that says an error."""
    headers = {}
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateLimitError):
        headers["Retry-After"] = str(math.ceil(float(error.details.get("retry_after_s") or 1)))
    if isinstance(error, WrongMethodError):
        headers["Allow"] = str(error.details.get("allow", ""))
    text = document(error, scope.get(REQUEST_ID, ""))
    return JSONResponse(text, status_code=error.http_status, headers=headers)


async def refuse(error: GreenroomError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request, or a WebSocket's opening one, that does not reach the application."""
    if scope["type"] == "websocket":
        await receive()  # the connect event; Starlette's answers know the rest
    await answer(error, scope)(scope, receive, send)


def add_handlers(app: FastAPI) -> None:
    """Have every error of the application leave it as an ``ErrorDocument``."""
    app.add_exception_handler(GreenroomError, _refused)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(WebSocketRequestValidationError, _malformed_websocket)  # type: ignore[arg-type]
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, GreenroomError):
        raise error
    return answer(error, request.scope)


async def _http(request: Request, error: Exception) -> JSONResponse:
    """The framework's own refusals."""
    if isinstance(error, Refused):
        return answer(error.error, request.scope)
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path[:200]
    ours: GreenroomError
    if error.status_code == 404:
        ours = NotFoundError(f"there is no {path} in this API")
    elif error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        ours = WrongMethodError(f"{path} takes {allow}, not {request.method}", allow=allow)
    else:
        ours = UsageError(str(error.detail))
    return answer(ours, request.scope)


async def _malformed(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    return answer(_problems(error), request.scope)


async def _malformed_websocket(socket: WebSocket, error: WebSocketRequestValidationError) -> None:
    await socket.send_denial_response(answer(_problems(error), socket.scope))


def _problems(error: RequestValidationError | WebSocketRequestValidationError) -> UsageError:
    return UsageError(
        "; ".join(
            f"{'.'.join(str(part) for part in problem['loc'][1:]) or 'body'}: {problem['msg']}"
            for problem in error.errors()
        )
    )


async def _gone(request: Request, _: Exception) -> JSONResponse:
    """The caller went away in the middle of its request; nobody reads this but the log."""
    return answer(UsageError("the request broke off"), request.scope)


async def _bug(request: Request, error: Exception) -> JSONResponse:
    ident = request.scope.get(REQUEST_ID, "")
    _log.error("%s %s %s failed", ident, request.method, request.url.path, exc_info=error)
    last = traceback.format_exception_only(error)[-1].strip()
    # What an exception says of the host's inside is for its owner.
    what = last if GRANT not in request.scope else "the API's log has it under this request's id"
    told = {"error": "internal", "message": f"a bug in the API: {what}", "details": {}}
    return JSONResponse({**told, "request_id": ident}, status_code=500)
