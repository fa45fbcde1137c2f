"""Every request has an id: the caller's own, or one that is made here.

Plain ASGI, around everything: the id is in the answer's ``X-Request-Id``, in the body of an error,
and in the log. Requests that came over TCP have a line each in the log; over the Unix socket only
those that failed on our side.
"""

from __future__ import annotations

import logging
import os
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from greenroom.api.errors import GRANT, REQUEST_ID

_HEADER = b"x-request-id"
_GOOD = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("greenroom.api")


class Identified:
    """The application with an id around each request. ``log_all``: a line for each."""

    def __init__(self, app: ASGIApp, *, log_all: bool) -> None:
        self._app = app
        self._log_all = log_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        ident = next((value for name, value in scope["headers"] if name == _HEADER), b"")
        if not _GOOD.fullmatch(ident):
            ident = os.urandom(8).hex().encode()
        scope[REQUEST_ID] = ident.decode()
        status = 0
        began = time.perf_counter()

        async def tell(message: Message) -> None:
            nonlocal status
            kind = message["type"]
            if kind.endswith("response.start"):
                status = message["status"]
                message["headers"] = [*message["headers"], (_HEADER, ident)]
            elif kind == "websocket.accept":
                status = 101
                message["headers"] = [*message.get("headers", ()), (_HEADER, ident)]
            await send(message)

        try:
            await self._app(scope, receive, tell)
        finally:
            if self._log_all or status >= 500:
                grant = scope.get(GRANT)
                _log.info(
                    "%s %s %s %s %d %.0f ms",
                    scope[REQUEST_ID],
                    grant.name if grant else "-",
                    scope.get("method", "WEBSOCKET"),
                    scope["path"].encode("unicode_escape").decode()[:200],
                    status,
                    (time.perf_counter() - began) * 1000,
                )
