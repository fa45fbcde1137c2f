"""Files of a claimed container, in and out over the API."""

from __future__ import annotations

import io
from typing import IO

from greenroom.client.commands import Held
from greenroom.client.transport import Request, Transport
from greenroom.core.wire import url

FILES_S = 600.0
"""How long the next piece of an answer may take: a container may pack much, or run hooks first."""


async def read(transport: Transport, held: Held, path: str) -> bytes:
    """One file's content. Raises NotFoundError, UsageError for what is no file."""
    into = io.BytesIO()
    await transport.fetch(Request("GET", _url(held, path, "file"), timeout_s=FILES_S), into)
    return into.getvalue()


async def write(transport: Transport, held: Held, path: str, data: bytes) -> None:
    """Make or replace one file and the folders above it. Raises UsageError."""
    await transport.ask(Request("PUT", _url(held, path, "file"), content=data, timeout_s=FILES_S))


async def get_archive(transport: Transport, held: Held, path: str, into: IO[bytes]) -> None:
    """A file or folder with its name, as a tar stream. Raises NotFoundError."""
    await transport.fetch(Request("GET", _url(held, path, "tar"), timeout_s=FILES_S), into)


async def put_archive(
    transport: Transport, held: Held, folder: str, archive: bytes | IO[bytes]
) -> None:
    """Unpack a tar stream into a folder, made if there is none. Raises UsageError."""
    await transport.ask(
        Request("PUT", _url(held, folder, "tar"), content=archive, timeout_s=FILES_S)
    )


def _url(held: Held, path: str, form: str) -> str:
    return url("claims", held.claim_id, "files", path=path, token=held.token, **{"as": form})
