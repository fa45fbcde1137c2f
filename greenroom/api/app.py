"""The API's application: its routes and their description."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from greenroom.api import (
    claims,
    errors,
    exec_stream,
    files,
    forward,
    health,
    holding,
    listing,
    logs,
    pools,
    saved,
    tasks,
)
from greenroom.api.access import RULES, Subject
from greenroom.api.state import ApiState

ROUTERS = (
    health.router,
    claims.router,
    holding.router,
    saved.router,
    listing.router,
    exec_stream.router,
    files.router,
    forward.router,
    pools.router,
    logs.router,
    tasks.router,
)


def make_app(state: ApiState) -> FastAPI:
    """The application over ``state``; starts nothing.

    It trusts whoever reaches it: strangers come through ``guard``.
    """
    app = _Described(title="Greenroom", version="1", docs_url=None, redoc_url=None)
    app.state.greenroom = state
    app.state.readiness = health.ReadinessProbe()
    for router in ROUTERS:
        app.include_router(router)
    errors.add_handlers(app)
    return app


class _Described(FastAPI):
    """With an OpenAPI document that says what is true: our errors, tokens and scopes."""

    def openapi(self) -> dict[str, Any]:
        """FastAPI's own, corrected."""
        if self.openapi_schema is None:
            self.openapi_schema = _corrected(super().openapi())
        return self.openapi_schema


def _corrected(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["ErrorDocument"] = errors.ErrorDocument.model_json_schema()
    refusal = {
        "description": "Refused, or failed",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorDocument"}}},
    }
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = refusal
            rule = RULES.get((method.upper(), path))
            if rule is None or rule.scope is None:
                continue
            operation["security"] = [{"token": []}]
            operation["x-scope"] = str(rule.scope)
            operation["x-all-pools"] = rule.subject is Subject.ALL_POOLS
    return document
