"""One command in a container, streamed: ``docker exec`` over the engine's own socket.

The Docker SDK is synchronous; this is the small asynchronous part of the Engine API that
streams need. Reading and writing wait for the other side, so nothing piles up in memory.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenroom.core.errors import EngineError, NotFoundError

STDOUT, STDERR = 1, 2
_PIECE = 64 * 1024
_RESIZE_TRIES = 20
_CALL_S = 30.0


@dataclass(frozen=True)
class ExecSpec:
    """What to run where. ``user`` empty: the container's own."""

    container: str
    command: tuple[str, ...]
    user: str = ""
    workdir: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    tty: bool = False


class DockerExec:
    """A command that runs; made by ``start``. Close it with ``close`` in any case."""

    def __init__(
        self,
        engine: Path,
        spec: ExecSpec,
        ident: str,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._ident = ident
        self._reader, self._writer = streams
        self._left, self._channel = 0, STDOUT

    @classmethod
    async def start(cls, engine: Path, spec: ExecSpec) -> DockerExec:
        """Start the command. Raises NotFoundError (no such container), EngineError."""
        body = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": spec.tty,
            "Cmd": list(spec.command),
            "Env": [f"{name}={value}" for name, value in spec.environment.items()],
            "User": spec.user,
            "WorkingDir": spec.workdir,
        }
        made = await call(engine, "POST", f"/containers/{spec.container}/exec", body)
        ident = str(made["Id"])
        streams = await _hijack(engine, f"/exec/{ident}/start", {"Detach": False, "Tty": spec.tty})
        return cls(engine, spec, ident, streams)

    async def read(self) -> tuple[int, bytes] | None:
        """The next piece of output with its channel; None at the end."""
        if self._spec.tty:
            piece = await self._reader.read(_PIECE)
            return (STDOUT, piece) if piece else None
        if self._left == 0:
            try:
                header = await self._reader.readexactly(8)
            except asyncio.IncompleteReadError:
                return None
            self._channel, self._left = header[0], int.from_bytes(header[4:8], "big")
            if self._left == 0:
                return await self.read()
        piece = await self._reader.read(min(self._left, _PIECE))
        if not piece:
            return None
        self._left -= len(piece)
        return self._channel, piece

    async def write(self, data: bytes) -> None:
        """Feed standard input; returns when the engine has taken it. Gone is not an error."""
        with suppress(ConnectionError):  # the command ended: its exit code says the rest
            self._writer.write(data)
            await self._writer.drain()

    async def close_input(self) -> None:
        """End of standard input."""
        with suppress(ConnectionError, OSError):  # as in write
            if self._writer.can_write_eof():
                self._writer.write_eof()

    async def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size; the engine refuses it until the process is there."""
        for _ in range(_RESIZE_TRIES):
            try:
                await call(
                    self._engine, "POST", f"/exec/{self._ident}/resize?h={rows}&w={columns}", None
                )
            except (EngineError, NotFoundError):
                await asyncio.sleep(0.02)
            else:
                return

    async def exit_code(self) -> int:
        """The command's exit code, once its output has ended. Raises EngineError."""
        pause = 0.005
        while True:
            seen = await self._inspect()
            if not seen["Running"]:
                code = seen["ExitCode"]
                return 137 if code is None else int(code)  # None: ended with its container
            await asyncio.sleep(pause)  # it closed its output and goes on: nothing tells its end
            pause = min(2 * pause, 0.25)

    async def kill(self) -> None:
        """End the command and everything in its session."""
        try:
            seen = await self._inspect()
        except (EngineError, NotFoundError):
            return  # the container is gone, and the command with it
        if seen["Running"] and seen["Pid"]:
            await asyncio.to_thread(kill_session, int(seen["Pid"]))

    async def close(self) -> None:
        """Let go of the stream; does not end the command."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = await call(self._engine, "GET", f"/exec/{self._ident}/json", None)
        return found


def kill_session(leader: int) -> None:
    """SIGKILL to every process of ``leader``'s session (an exec is a session of its own)."""
    own = os.getsid(0)
    try:
        session = os.getsid(leader)
    except ProcessLookupError:
        return
    if session != leader or session == own:
        return  # not the exec's process any more
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(ProcessLookupError):
                if os.getsid(int(entry.name)) == session:
                    os.kill(int(entry.name), signal.SIGKILL)


async def call(engine: Path, method: str, path: str, body: dict[str, Any] | None) -> Any:  # noqa: ANN401
    """One request and its JSON answer (None for an empty one).

    Raises NotFoundError for 404, EngineError for every other failure.
    """
    try:
        async with asyncio.timeout(_CALL_S):
            status, answer = await _exchange(engine, method, path, body)
    except (OSError, TimeoutError) as error:
        raise EngineError(f"the Docker Engine at {engine} does not answer: {error}") from error
    if status >= 400:
        raise _refusal(status, answer)
    return json.loads(answer) if answer else None


async def text(engine: Path, path: str) -> bytes:
    """One GET and its raw answer. Raises as ``call``."""
    try:
        async with asyncio.timeout(_CALL_S):
            status, answer = await _exchange(engine, "GET", path, None)
    except (OSError, TimeoutError) as error:
        raise EngineError(f"the Docker Engine at {engine} does not answer: {error}") from error
    if status >= 400:
        raise _refusal(status, answer)
    return answer


async def _exchange(
    engine: Path, method: str, path: str, body: dict[str, Any] | None
) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_unix_connection(str(engine))
    try:
        # HTTP/1.0: the answer ends with the connection, without chunks.
        writer.write(_head(method, path, "1.0", body, ()))
        await writer.drain()
        status = await _status(reader)
        return status, await reader.read()
    finally:
        writer.close()


async def _hijack(
    engine: Path, path: str, body: dict[str, Any]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        reader, writer = await asyncio.open_unix_connection(str(engine), limit=_PIECE)
        writer.write(_head("POST", path, "1.1", body, ("Connection: Upgrade", "Upgrade: tcp")))
        await writer.drain()
        status = await _status(reader)
    except OSError as error:
        raise EngineError(f"the Docker Engine at {engine} does not answer: {error}") from error
    if status not in (101, 200):
        answer = await reader.read(_PIECE)
        writer.close()
        raise _refusal(status, answer)
    return reader, writer


def _head(
    method: str, path: str, version: str, body: dict[str, Any] | None, extra: tuple[str, ...]
) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = [
        f"{method} {path} HTTP/{version}",
        "Host: docker",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        *extra,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


async def _status(reader: asyncio.StreamReader) -> int:
    """Read an answer's head; its status."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
        raise EngineError(f"the Docker Engine's answer makes no sense: {error}") from error


def _refusal(status: int, answer: bytes) -> EngineError | NotFoundError:
    message = answer.decode(errors="replace").strip()
    with suppress(ValueError):
        told = json.loads(message)
        if isinstance(told, dict):
            message = str(told.get("message", message))
    if status == 404:
        return NotFoundError(message)
    return EngineError(f"Docker: {message or status}", status=status)
