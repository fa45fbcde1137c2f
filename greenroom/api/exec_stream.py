"""Commands in a claimed container over a WebSocket.

``greenroom.core.wire`` says what travels. A caller that keeps at most ``WINDOW`` bytes of input
without an ack is seen to go away even while its command reads nothing. On standard error there is
a line of our own when the lease ends soon, where the pool says so.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from greenroom.api.docker_exec import STDERR, DockerExec, ExecSpec
from greenroom.api.lease_watch import watch_lease
from greenroom.api.leases import usable_slot
from greenroom.api.state import ApiState, State
from greenroom.core.errors import GreenroomError, NotFoundError, UsageError
from greenroom.core.slotfile import SlotRecord
from greenroom.core.wire import CONTROL, STDIN, WINDOW, control, frame

router = APIRouter(prefix="/v1")


class ExecOrder(BaseModel):
    """What to run, as the container's user. ``workdir`` empty: the container's own."""

    model_config = ConfigDict(extra="forbid")

    cmd: tuple[str, ...] = Field(min_length=1)
    tty: bool = False
    env: dict[str, str] = Field(default_factory=dict)
    workdir: str = ""
    rows: int = Field(0, ge=0, le=10_000)
    cols: int = Field(0, ge=0, le=10_000)
    token: int | None = None


@router.websocket("/claims/{claim_id}/exec")
async def run(socket: WebSocket, claim_id: str, state: State) -> None:
    """Run one command; it is killed when the caller goes away."""
    await socket.accept()
    try:
        order = _order(await socket.receive_text())
        slot = await usable_slot(state, claim_id, order.token)
        command = await DockerExec.start(state.engine, _spec(state, slot, order))
    except WebSocketDisconnect:
        return
    except GreenroomError as error:
        await _last(socket, _error(error))
        return
    try:
        if order.tty and order.rows and order.cols:
            await command.resize(order.rows, order.cols)
        await _stream(socket, _Running(state, command, claim_id, slot, order.tty))
    except GreenroomError as error:
        await _last(socket, _error(error))
    finally:
        await command.close()


@dataclass(frozen=True)
class _Running:
    state: ApiState
    command: DockerExec
    claim_id: str
    slot: SlotRecord
    tty: bool

    async def say(self, socket: WebSocket, line: str) -> None:
        """A line of ours among the command's output; nobody listening is no failure."""
        end = "\r\n" if self.tty else "\n"
        with suppress(WebSocketDisconnect, RuntimeError):  # Starlette raises either
            await socket.send_bytes(bytes([STDERR]) + (line + end).encode())


async def _stream(socket: WebSocket, running: _Running) -> None:
    """Pass everything on until the command ends or its caller is gone; then it is killed."""
    source = _Input(socket, running.command)
    served = asyncio.ensure_future(_serve(socket, running))
    given = asyncio.ensure_future(source.receive())
    fed = asyncio.ensure_future(source.feed())
    watched = asyncio.ensure_future(
        watch_lease(running.state, running.slot, lambda line: running.say(socket, line))
    )
    last: dict[str, object] | None = None
    try:
        await asyncio.wait({served, given}, return_when=asyncio.FIRST_COMPLETED)
        if served.done():
            last = served.result()
        else:
            given.result()  # a bug there must show
    finally:
        if last is None:
            await running.command.kill()
        for task in (served, given, fed, watched):
            task.cancel()
        await asyncio.gather(served, given, fed, watched, return_exceptions=True)
    if last is not None:
        await _last(socket, last)


async def _serve(socket: WebSocket, running: _Running) -> dict[str, object] | None:
    """Pass the output on; the last message, or None when nobody listens any more."""
    while (piece := await running.command.read()) is not None:
        channel, data = piece
        try:
            await socket.send_bytes(frame(channel, data))
        except (WebSocketDisconnect, RuntimeError):  # Starlette raises either for a closed one
            return None
    return await _ending(running)


class _Input:
    """What the caller sends: taken from it at once, and fed as fast as the command takes it."""

    def __init__(self, socket: WebSocket, command: DockerExec) -> None:
        self._socket = socket
        self._command = command
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._changed = asyncio.Condition()

    async def receive(self) -> None:
        """Returns when the caller is gone."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            told: bytes = message.get("bytes") or b""
            if told[:1] == bytes([STDIN]) and len(told) > 1:
                await self._hold(told[1:])
            elif told[:1] == bytes([CONTROL]):
                await self._control(told[1:])

    async def feed(self) -> None:
        """Runs until it is cancelled."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._waiting))
                piece = self._waiting.popleft()
            if not piece:
                await self._command.close_input()
                continue
            await self._command.write(piece)
            async with self._changed:
                self._held -= len(piece)
                self._changed.notify_all()
            await _tell(self._socket, {"type": "ack", "bytes": len(piece)})

    async def _hold(self, piece: bytes) -> None:
        """Keep a piece (an empty one is the end) for ``feed``; waits while there is too much."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._held <= 2 * WINDOW)
            self._waiting.append(piece)
            self._held += len(piece)
            self._changed.notify_all()

    async def _control(self, text: bytes) -> None:
        try:
            told = json.loads(text)
        except ValueError:
            return  # not ours to understand: a newer caller's
        match told:
            case {"type": "stdin_eof"}:
                await self._hold(b"")
            case {"type": "resize", "rows": int(rows), "cols": int(columns)}:
                await self._command.resize(rows, columns)
            case _:
                return  # as above


async def _ending(running: _Running) -> dict[str, object]:
    """The last message: the command's code, or that the claim ended under it."""
    try:
        code = await running.command.exit_code()
    except GreenroomError as error:
        if await _claim_is_live(running):
            return _error(error)
        code = 137
    if code == 137 and not await _claim_is_live(running):
        return _error(NotFoundError(f"claim {running.claim_id} ended while the command ran"))
    return {"type": "exit", "code": code}


async def _claim_is_live(running: _Running) -> bool:
    slot = await asyncio.to_thread(running.state.host.slot, running.slot.container)
    return slot is not None and slot.lease is not None and not slot.lease.ended


def _order(text: str) -> ExecOrder:
    try:
        return ExecOrder.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"{where or 'order'}: {problem['msg']}") from error


def _spec(state: ApiState, slot: SlotRecord, order: ExecOrder) -> ExecSpec:
    return ExecSpec(
        container=slot.docker_id,
        command=state.host.command(slot, order.cmd),
        user=f"{slot.uid}:{slot.gid}",
        workdir=order.workdir or slot.workdir,
        environment={**state.host.environment(slot), **order.env},
        tty=order.tty,
    )


def _error(error: GreenroomError) -> dict[str, object]:
    return {
        "type": "error", "error": error.code, "message": error.message, "details": error.details,
    }  # fmt: skip


async def _tell(socket: WebSocket, message: dict[str, object]) -> bool:
    """Send a control message; False when nobody listens any more."""
    try:
        await socket.send_bytes(control(message))
    except (WebSocketDisconnect, RuntimeError):  # Starlette raises either for a closed one
        return False
    return True


async def _last(socket: WebSocket, message: dict[str, object]) -> None:
    if await _tell(socket, message):
        await socket.close()
