"""The part of a Docker engine that commands need, over a Unix socket: they run on this machine.

``/workspace`` in a command's words stands for a folder of the test's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

STDOUT, STDERR = 1, 2


class FakeEngine:
    """``processes`` are the commands that were started, in order."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.processes: list[asyncio.subprocess.Process] = []
        self._asked: list[dict[str, Any]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, path = head.decode().split(" ")[:2]
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = json.loads(await reader.readexactly(length) or b"null")
        number = int(path.split("/")[2]) if path.startswith("/exec/") else -1
        if path.endswith("/exec"):
            self._asked.append(body)
            _answer(writer, {"Id": str(len(self._asked) - 1)})
        elif path.endswith("/start"):
            await self._run(self._asked[number], reader, writer)
        else:
            assert method == "GET"
            process = self.processes[number]
            code = process.returncode
            state = {"Running": code is None, "ExitCode": code, "Pid": process.pid}
            _answer(writer, {**state, "ExitCode": 137 if code and code < 0 else code})
        await writer.drain()
        writer.close()

    async def _run(
        self, asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            *(word.replace("/workspace", str(self.workspace)) for word in asked["Cmd"]),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", **dict(pair.split("=", 1) for pair in asked["Env"])},
            cwd=str(self.workspace),
            start_new_session=True,
        )
        self.processes.append(process)
        writer.write(b"HTTP/1.1 101 UPGRADED\r\n\r\n")
        assert process.stdin and process.stdout and process.stderr  # noqa: PT018
        feeding = asyncio.create_task(_feed(reader, process.stdin))
        await asyncio.gather(
            _pass_on(process.stdout, STDOUT, writer), _pass_on(process.stderr, STDERR, writer)
        )
        await process.wait()
        feeding.cancel()


async def _feed(reader: asyncio.StreamReader, stdin: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        stdin.write(data)
        await stdin.drain()
    stdin.close()


async def _pass_on(
    source: asyncio.StreamReader, channel: int, writer: asyncio.StreamWriter
) -> None:
    while data := await source.read(65536):
        writer.write(bytes([channel, 0, 0, 0]) + len(data).to_bytes(4) + data)
        await writer.drain()


def _answer(writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(document).encode())


@asynccontextmanager
async def engine(socket: Path, workspace: Path) -> AsyncIterator[FakeEngine]:
    """An engine that listens while the block runs; nothing that it started goes on after."""
    fake = FakeEngine(workspace)
    server = await asyncio.start_unix_server(fake.serve, str(socket))
    try:
        yield fake
    finally:
        server.close()
        for process in fake.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
