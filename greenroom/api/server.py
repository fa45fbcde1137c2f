"""The API's process: one event loop, one warm Temporal client, one Unix socket."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Mapping

import uvicorn
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError

from greenroom.api.app import make_app
from greenroom.api.host import LocalHost
from greenroom.api.listening import listening, server_config
from greenroom.api.state import ApiState
from greenroom.client.pool_client import SAFE_IN_FLIGHT, PoolClient
from greenroom.client.retries import NO_RETRIES
from greenroom.metrics import Metrics
from greenroom.services.logs import log_to_stderr
from greenroom.services.settings import Settings, load_settings
from greenroom.services.temporal_server import connect_config

_log = logging.getLogger("greenroom.api")
_LIFTED_IN_FLIGHT = 64
"""Updates at once on our own server, which has its limits lifted."""


def main(environ: Mapping[str, str] | None = None) -> None:
    """Serve until SIGTERM. Raises UsageError when there is no install."""
    log_to_stderr()
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    where = os.environ if environ is None else environ
    asyncio.run(serve(load_settings(where), where))


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
    with listening(settings.paths.api_socket) as listener:
        await _Server(server_config(make_app(state))).serve(sockets=[listener])


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


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
