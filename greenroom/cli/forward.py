"""``greenroom forward``: a server in a claimed container, reached at a port of this machine."""

from __future__ import annotations

import asyncio
import re

import click
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from greenroom.cli.http_client import Api, open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, say
from greenroom.core.errors import GreenroomError, UsageError
from greenroom.core.wire import error_of, url

_EOF = "eof"
_PIECE = 64 * 1024


@click.command("forward")
@click.argument("claim")
@click.argument("ports", metavar="[LOCAL:]REMOTE")
@json_option
def command(claim: str, ports: str, as_json: bool) -> None:  # noqa: FBT001
    """Listen on 127.0.0.1:LOCAL and pass connections on to REMOTE in CLAIM, until Ctrl-C.

    LOCAL 0 takes any free port.
    """
    local, remote = parse_ports(ports)
    api = open_api()
    api.get("claims", claim)  # one that is not there is said now, not at the first connection
    asyncio.run(_serve(api, claim, (local, remote), as_json=as_json))


def parse_ports(text: str) -> tuple[int, int]:
    """The two ports. Raises UsageError."""
    found = re.fullmatch(r"(?:([0-9]{1,5}):)?([0-9]{1,5})", text, re.ASCII)
    local, remote = (int(found[1] or found[2]), int(found[2])) if found else (-1, -1)
    if not (0 <= local < 65536 and 0 < remote < 65536):
        raise UsageError(f"{text!r}: write LOCAL:REMOTE, such as 8000:8000")
    return local, remote


async def _serve(api: Api, claim: str, ports: tuple[int, int], *, as_json: bool) -> None:
    local, remote = ports

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _pass_on(api, url("claims", claim, "forward", port=remote), reader, writer)
        except GreenroomError as error:
            say(f"greenroom: {error.message}")
        except (OSError, InvalidHandshake, ConnectionClosed) as error:
            say(f"greenroom: the connection broke off: {error}")
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, "127.0.0.1", local, limit=_PIECE)
    except OSError as error:
        raise UsageError(f"cannot listen on port {local}: {error.strerror}") from error
    port = server.sockets[0].getsockname()[1]
    if as_json:
        emit({"claim_id": claim, "local": port, "remote": remote})
    say(f"127.0.0.1:{port} is port {remote} of {claim}; Ctrl-C ends it")
    async with server:
        await server.serve_forever()


async def _pass_on(
    api: Api, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One connection, both directions. Raises GreenroomError when it is refused."""
    options = await asyncio.to_thread(api.websocket, path)
    try:
        async with connect(**options) as socket:
            up = asyncio.ensure_future(_up(socket, reader))
            try:
                await _down(socket, writer)
            finally:
                up.cancel()
                await asyncio.gather(up, return_exceptions=True)
    except InvalidStatus as error:
        raise error_of(error.response.status_code, bytes(error.response.body or b"")) from error


async def _up(socket: ClientConnection, reader: asyncio.StreamReader) -> None:
    while piece := await reader.read(_PIECE):
        await socket.send(piece)
    await socket.send(_EOF)


async def _down(socket: ClientConnection, writer: asyncio.StreamWriter) -> None:
    async for message in socket:
        if isinstance(message, bytes):
            writer.write(message)
            await writer.drain()
        elif message == _EOF:
            writer.write_eof()
