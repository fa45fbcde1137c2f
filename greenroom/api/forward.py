"""A TCP port of a claimed container over a WebSocket: one connection each.

The container has a loopback and nothing else. The opener makes a socket in its network and hands
it over; here it is connected to 127.0.0.1, to no other address, and never to a port of the gate.

Binary messages are the bytes of either direction; a text message ``eof`` says that this direction
has ended. What is wrong before that is the HTTP answer to the opening request.
"""

from __future__ import annotations

import asyncio
import socket as sockets
from typing import Annotated

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect

from greenroom.api.errors import answer
from greenroom.api.leases import usable_slot
from greenroom.api.state import ApiState, State
from greenroom.core.errors import BackendError, ForbiddenError, GreenroomError, NotFoundError
from greenroom.core.slotfile import SlotRecord

router = APIRouter(prefix="/v1/claims")

EOF = "eof"
_LOOPBACK = "127.0.0.1"
_PIECE = 64 * 1024
_CONNECT_S = 10.0


@router.websocket("/{claim_id}/forward")
async def forward(
    socket: WebSocket,
    claim_id: str,
    state: State,
    port: Annotated[int, Query(ge=1, le=65535)],
    token: int | None = None,
) -> None:
    """Connect to a port on the container's 127.0.0.1, until either side has gone."""
    try:
        slot = await usable_slot(state, claim_id, token)
        check_port(slot, port)
        reader, writer = await _connect(state, slot, port)
    except GreenroomError as error:
        await socket.send_denial_response(answer(error, socket.scope))
        return
    await socket.accept()
    try:
        await _pass_on(socket, reader, writer)
    finally:
        writer.close()


def check_port(slot: SlotRecord, port: int) -> None:
    """Refuse the gate's own listeners: who may go through them is the container. ForbiddenError."""
    if any(each.port == port and each.address == _LOOPBACK for each in slot.listeners):
        raise ForbiddenError(f"port {port} is the gate's, not the container's")


async def _connect(
    state: ApiState, slot: SlotRecord, port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises NotFoundError when nothing listens there, BackendError."""
    inside = await asyncio.to_thread(state.host.connect_socket, slot)
    try:
        inside.setblocking(False)
        inside.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.get_running_loop().sock_connect(inside, (_LOOPBACK, port))
        return await asyncio.open_connection(sock=inside, limit=_PIECE)
    except ConnectionRefusedError:
        inside.close()
        raise NotFoundError(f"nothing listens on port {port} in {slot.container}") from None
    except (OSError, TimeoutError) as error:
        inside.close()
        raise BackendError(f"port {port} in {slot.container}: {error}") from error


async def _pass_on(
    socket: WebSocket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Both directions, until both have ended or the caller is gone."""
    out = asyncio.ensure_future(_outward(socket, reader))
    into = asyncio.ensure_future(_inward(socket, writer))
    try:
        await asyncio.wait({out, into}, return_when=asyncio.FIRST_COMPLETED)
        if into.done() and not into.result():
            return  # gone: nobody is left to read
        await asyncio.wait({out, into})  # the other direction may go on
    finally:
        for task in (out, into):
            task.cancel()
        await asyncio.gather(out, into, return_exceptions=True)
    await socket.close()


async def _outward(socket: WebSocket, reader: asyncio.StreamReader) -> None:
    try:
        while piece := await reader.read(_PIECE):
            await socket.send_bytes(piece)
        await socket.send_text(EOF)
    except (WebSocketDisconnect, RuntimeError, ConnectionError):
        return  # one of the two is gone


async def _inward(socket: WebSocket, writer: asyncio.StreamWriter) -> bool:
    """Returns at the end of the caller's direction; whether the caller is still there."""
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                return False
            if message.get("text") == EOF:
                writer.write_eof()
                return True
            writer.write(message.get("bytes") or b"")
            await writer.drain()
    except (ConnectionError, OSError):
        return True  # the container's side is gone; its last words may be on their way
