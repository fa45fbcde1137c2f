"""How the API is served: its Unix socket, its TCP listener, and the web server's settings.

Two servers share one application. What comes over the Unix socket is trusted and goes straight to
it; what comes over TCP goes through the ``Guard``.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import h11
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from greenroom.api.guard import Guard
from greenroom.api.requests import Identified
from greenroom.api.state import ApiState
from greenroom.services.listen import Listen, tls_context

_STOP_S = 5
HEAD_S = 10.0
"""How long a TCP client may take for the head of each request, after TLS."""
MOST_CONNECTIONS = 512


class Server(uvicorn.Server):
    """A server that leaves signals alone, and says when it accepts connections."""

    def __init__(self, config: uvicorn.Config, when_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_started = when_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn's own."""
        await super().startup(sockets)
        self._when_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own."""
        yield


class BoundedHttp(H11Protocol):
    """The web server's HTTP, with what it lacks for strangers: an end to heads that never end.

    It ends the rest of a refused body too, which is read and dropped until then, so that the
    caller sees the refusal and not a broken connection.
    """

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Asyncio's own."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        """Asyncio's own."""
        if self._between_requests():
            self._await_head()
        super().data_received(data)
        if not self._between_requests():
            self._stop_timer()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Uvicorn's own. Its head is there; what comes next is another protocol's."""
        self._stop_timer()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio's own."""
        self._stop_timer()
        super().connection_lost(exc)

    def _between_requests(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def local_config(app: FastAPI) -> uvicorn.Config:
    """For the Unix socket."""
    return _config(Identified(app, log_all=False))


def remote_config(app: FastAPI, state: ApiState, listen: Listen) -> uvicorn.Config:
    """For the TCP listener. Raises UsageError when its certificate cannot be used."""
    guarded = Identified(Guard(app, state), log_all=True)
    config = _config(guarded, http=BoundedHttp)
    if listen.cert:
        context = tls_context(listen)
        config.ssl_certfile = listen.cert
        config.ssl_context_factory = _giving(context)
    return config


def _giving(
    context: ssl.SSLContext,
) -> Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext]:
    return lambda _config, _default: context


def _config(app: ASGIApp, http: type[H11Protocol] | Literal["auto"] = "auto") -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=http,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="websockets-sansio",
        ws_ping_interval=None,  # a command that reads no input also holds up our reading of pongs
        ws_per_message_deflate=False,
        proxy_headers=False,  # whoever sends them could be anybody
        server_header=False,
        timeout_graceful_shutdown=_STOP_S,
    )


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A listening Unix socket that only its owner may connect to."""
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(512)
    try:
        yield listener
    finally:
        listener.close()
        path.unlink(missing_ok=True)
