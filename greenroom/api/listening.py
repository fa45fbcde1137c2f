"""How the API is served: its socket, and its web server's settings."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

_STOP_S = 5


def server_config(app: FastAPI) -> uvicorn.Config:
    """How the API is served, wherever it listens."""
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="websockets-sansio",
        ws_ping_interval=None,  # a command that reads no input also holds up our reading of pongs
        ws_per_message_deflate=False,
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
