"""The API's process: one event loop, one warm Temporal client, its Unix socket and TCP listener."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Mapping

import uvicorn
from fastapi import FastAPI
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from activities.beats import beat_for_all
from greenroom.api.app import make_app
from greenroom.api.host import LocalHost
from greenroom.api.listening import Server, listening, local_config, remote_config
from greenroom.api.state import ApiState
from greenroom.client.pool_client import SAFE_IN_FLIGHT, PoolClient
from greenroom.client.retries import NO_RETRIES
from greenroom.core.errors import UsageError
from greenroom.metrics import Metrics
from greenroom.services.listen import Listen, bind
from greenroom.services.logs import log_to_stderr
from greenroom.services.settings import Settings, load_settings
from greenroom.services.temporal_server import connect_config

_log = logging.getLogger("greenroom.api")
_BIND_PAUSE_S = 2.0
_LIFTED_IN_FLIGHT = 64
"""Updates at once on our own server, which has its limits lifted."""


def main(environ: Mapping[str, str] | None = None) -> None:
    """Serve until SIGTERM. Raises UsageError when there is no install."""
    log_to_stderr()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_true)
    where = os.environ if environ is None else environ
    asyncio.run(serve(load_settings(where), where))


def _true(record: logging.LogRecord) -> bool:
    """Leaves out what uvicorn says of each WebSocket whose opening was answered with an error."""
    return record.msg != "ASGI callable returned without completing handshake."


async def serve(settings: Settings, environ: Mapping[str, str]) -> None:
    """Connect, listen, say ``ready``, and serve until told to stop."""
    temporal = await _connect(settings, environ)
    in_flight = _LIFTED_IN_FLIGHT if settings.embedded else SAFE_IN_FLIGHT
    state = ApiState(
        settings=settings,
        client=PoolClient(temporal, in_flight=in_flight),
        host=LocalHost.of(settings),
        metrics=Metrics(),
    )
    await state.client.pools()  # the first call is the slow one: not a user's
    beat_for_all(settings.paths)  # nobody could be heard of while we were away
    app = make_app(state)
    with listening(settings.paths.api_socket) as listener:
        local = _Local(local_config(app))
        listen = settings.listen
        if listen is None:
            await local.serve(sockets=[listener])
            return
        remote = Remote(app, state, listen)
        serving = asyncio.create_task(remote.serve())
        await remote.tried.wait()
        try:
            await local.serve(sockets=[listener])
        finally:
            remote.stop()
            await serving


class _Local(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


class Remote:
    """The TCP listener. One that cannot be is tried again: the Unix socket serves anyway.

    ``tried``: it listens, or has failed to at least once.
    """

    def __init__(self, app: FastAPI, state: ApiState, listen: Listen) -> None:
        self._app = app
        self._state = state
        self._listen = listen
        self._server: Server | None = None
        self._stopping = asyncio.Event()
        self.tried = asyncio.Event()

    async def serve(self) -> None:
        """Serve until ``stop``."""
        while not self._stopping.is_set():
            try:
                config = remote_config(self._app, self._state, self._listen)
                bound = bind(self._listen)
            except (OSError, UsageError) as error:  # the port is taken, the certificate is broken
                if not self.tried.is_set():
                    _log.error("cannot listen on %s, trying on: %s", self._listen.url, error)
                self.tried.set()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), _BIND_PAUSE_S)
                continue
            _log.info("listening on %s", self._listen.url)
            self._server = Server(config, self.tried.set)
            with bound:
                await self._server.serve(sockets=[bound])

    def stop(self) -> None:
        """End ``serve``."""
        self._stopping.set()
        if self._server is not None:
            self._server.should_exit = True


async def _connect(settings: Settings, environ: Mapping[str, str]) -> Client:
    """A client as soon as the server answers; the supervisor is who gives up on us."""
    said = False
    while True:
        try:
            return await Client.connect(
                **connect_config(settings, environ),
                data_converter=pydantic_data_converter,
                retry_config=NO_RETRIES,  # every call goes through ``patiently``
            )
        except (RPCError, RuntimeError) as error:
            if not said:
                _log.warning("waiting for Temporal at %s: %s", settings.temporal_address, error)
                said = True
            await asyncio.sleep(0.2)
