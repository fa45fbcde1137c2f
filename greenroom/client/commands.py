"""A command in a claimed container: its streams over the API's WebSocket, and its exit code."""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Literal, Self

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from greenroom.client.options import Command
from greenroom.client.transport import RESTART_S, Transport
from greenroom.core import wire
from greenroom.core.errors import (
    BackendError,
    CommandError,
    CommandTimeoutError,
    GreenroomError,
    UsageError,
)

_PAUSE_S = 0.05
_TAIL = 2000


@dataclass(frozen=True)
class Chunk:
    """A piece of a command's output, as it came."""

    stream: Literal["stdout", "stderr"]
    data: bytes

    @property
    def text(self) -> str:
        """The piece as text; it may end in the middle of a character."""
        return self.data.decode(errors="replace")


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    argv: tuple[str, ...]
    exit_code: int
    stdout_bytes: bytes = b""
    stderr_bytes: bytes = b""

    @property
    def stdout(self) -> str:
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        return self.stderr_bytes.decode(errors="replace")


@dataclass(frozen=True)
class Held:
    """Which claim a command runs under."""

    claim_id: str
    token: int


class AsyncRunningCommand:
    """A command whose output can be iterated over, once. Leaving its block early kills it."""

    def __init__(self, transport: Transport, held: Held, command: Command) -> None:
        self._transport = transport
        self._held = held
        self._command = command
        self._chunks: AsyncGenerator[Chunk, None] | None = None
        self._exit_code: int | None = None
        self._input_error: Exception | None = None

    @property
    def exit_code(self) -> int:
        """Its exit code, once its output has ended. Raises UsageError before."""
        if self._exit_code is None:
            raise UsageError("the command has not ended: read its output first")
        return self._exit_code

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Start it. Raises any of ``greenroom.core.errors``, CommandError with ``check``."""
        if self._chunks is not None:
            raise UsageError("the output of a command can be read once")
        self._chunks = self._run()
        return self._chunks

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """End it, if it has not ended."""
        if self._chunks is not None:
            await self._chunks.aclose()

    async def wait(self) -> Completed:
        """Run it to its end, keeping its output. Raises as the iteration."""
        kept = {"stdout": bytearray(), "stderr": bytearray()}
        try:
            async for chunk in self:
                kept[chunk.stream] += chunk.data
        except CommandError as error:
            error.stdout = kept["stdout"].decode(errors="replace")
            error.stderr = kept["stderr"].decode(errors="replace")
            if tail := error.stderr[-_TAIL:].strip():
                error.add_note(tail)
            raise
        out, err = bytes(kept["stdout"]), bytes(kept["stderr"])
        return Completed(self._command.argv, self.exit_code, out, err)

    async def _run(self) -> AsyncGenerator[Chunk, None]:
        limit = self._command.timeout_s
        deadline = None if limit is None else asyncio.get_running_loop().time() + limit
        try:
            async with asyncio.timeout_at(deadline):
                socket = await self._open()
        except TimeoutError:
            raise self._too_long() from None
        window = _Window()
        feeder = asyncio.ensure_future(self._feed(socket, window))
        try:
            while self._exit_code is None:
                # Around each wait alone: between two of them the caller's own code runs.
                async with asyncio.timeout_at(deadline):
                    message = await socket.recv()
                match wire.hear(message):
                    case wire.Output(channel, data):
                        yield Chunk("stderr" if channel == wire.STDERR else "stdout", data)
                    case wire.Ack(count):
                        await window.give(count)
                    case wire.Exit(code):
                        self._exit_code = code
                    case None:
                        continue
        except TimeoutError:
            raise self._too_long() from None
        except ConnectionClosed as error:
            if self._input_error is not None:
                raise self._input_error from None  # what gives its input failed, and ended it
            raise BackendError(f"the API broke off while the command ran: {error}") from error
        finally:
            feeder.cancel()
            await asyncio.gather(feeder, return_exceptions=True)
            await socket.close()
        if self._command.check and self._exit_code:
            line = shlex.join(self._command.argv)
            raise CommandError(f"exit code {self._exit_code}: {line}", exit_code=self._exit_code)

    def _too_long(self) -> CommandTimeoutError:
        line, limit = shlex.join(self._command.argv), self._command.timeout_s
        return CommandTimeoutError(f"killed after {limit:g} s: {line}", exit_code=None)

    async def _open(self) -> ClientConnection:
        """Connect and send the order; an API that is just being restarted is waited for."""
        give_up = time.monotonic() + RESTART_S
        address = self._transport.address
        while True:
            try:
                socket = await self._connect()
            except InvalidStatus as error:
                raise _refusal(error) from error
            except (OSError, InvalidHandshake) as error:
                if time.monotonic() > give_up or not address.may_come_back():
                    raise address.unreachable(error) from error
                await asyncio.sleep(_PAUSE_S)
            else:
                await socket.send(self._order())
                return socket

    async def _connect(self) -> ClientConnection:
        address, verify = self._transport.address, self._transport.verify
        uri = address.websocket_url + wire.url("claims", self._held.claim_id, "exec")
        if address.paths is not None:
            return await unix_connect(
                str(address.paths.api_socket), uri,
                compression=None, max_size=None, ping_interval=None, close_timeout=2,
            )  # fmt: skip
        return await connect(
            uri, additional_headers=address.headers, ssl=None if verify is True else verify,
            compression=None, max_size=None, ping_interval=None, close_timeout=2,
        )  # fmt: skip

    def _order(self) -> str:
        return json.dumps(
            {
                "cmd": self._command.argv,
                "env": self._command.env,
                "workdir": self._command.workdir,
                "token": self._held.token,
            }
        )

    async def _feed(self, socket: ClientConnection, window: _Window) -> None:
        try:
            async for piece in _pieces(self._command):
                await window.take(len(piece))
                await socket.send(wire.frame(wire.STDIN, piece))
            await socket.send(wire.control(wire.STDIN_EOF))
        except ConnectionClosed:
            return  # the command has ended
        except Exception as error:  # noqa: BLE001 - the caller's own code; raised in ``_run``
            self._input_error = error
            await socket.close()


class _Window:
    """How much input is under way; the feeder waits here for room."""

    def __init__(self) -> None:
        self._under_way = 0
        self._changed = asyncio.Condition()

    async def take(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._under_way + count <= wire.WINDOW)
            self._under_way += count

    async def give(self, count: int) -> None:
        async with self._changed:
            self._under_way -= count
            self._changed.notify_all()


async def _pieces(command: Command) -> AsyncIterator[bytes]:
    """The command's input in pieces that fit into a frame."""
    given = command.stdin
    if isinstance(given, bytes):
        for start in range(0, len(given), wire.PIECE):
            yield given[start : start + wire.PIECE]
        return
    async for whole in given:
        for start in range(0, len(whole), wire.PIECE):
            yield whole[start : start + wire.PIECE]


def _refusal(error: InvalidStatus) -> GreenroomError:
    return wire.error_of(error.response.status_code, bytes(error.response.body or b""))
