"""A gate's site on loopback sockets of the test's own, and upstreams for it to reach."""

import asyncio
import json
import socket
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenroom.core.policy import Endpoint, Listener, Phase, Policy
from greenroom.core.slotfile import GitAccess, HostLease, SlotRecord
from greenroom.gate.connect import Outside
from greenroom.gate.decisions import Books
from greenroom.gate.namespaces import close_all
from greenroom.gate.server import HANDLERS
from greenroom.gate.site import Site, Surroundings

Serve = Callable[[StreamReader, StreamWriter], Awaitable[None]]


@dataclass
class Lab:
    """One attached container whose listeners are at ``places``; names resolve by ``names``."""

    mirrors: Path
    names: dict[str, str] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    dialled: list[StreamWriter] = field(default_factory=list)
    site: Site | None = None
    books: Books | None = None

    async def resolve(self, host: str, _port: int) -> list[str]:
        self.resolved.append(host)
        if host not in self.names:
            raise OSError("no such name")
        return [self.names[host]]

    def record(self, allow: list[Endpoint], phase: Phase = Phase.CLAIMED) -> SlotRecord:
        assert self.site is not None
        return self.site.record.model_copy(
            update={
                "phase": phase,
                "policies": {Phase.CLAIMED: Policy(allow=tuple(allow), git=True)},
            }
        )

    async def dial(self, index: int = 0) -> tuple[StreamReader, StreamWriter]:
        """A connection as the container would make it, to its listener number ``index``."""
        reader, writer = await asyncio.open_connection(*self.places[index])
        self.dialled.append(writer)
        return reader, writer

    async def tunnel(self, authority: str) -> tuple[StreamReader, StreamWriter, bytes]:
        """CONNECT through listener 0; the third value is the head of the answer."""
        reader, writer = await self.dial()
        writer.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        return reader, writer, await reader.readuntil(b"\r\n\r\n")


@asynccontextmanager
async def lab(
    mirrors: Path,
    listeners: list[Listener],
    allow: list[Endpoint],
    git: GitAccess | None = None,
) -> AsyncIterator[Lab]:
    made = Lab(mirrors)
    made.books = Books(write=lambda line: made.lines.append(json.loads(line)))
    around = Surroundings(Outside(resolver=made.resolve), made.books, mirrors, made.reports.append)
    record = SlotRecord(
        container="c1",
        pool="p1",
        phase=Phase.CLAIMED,
        policies={Phase.CLAIMED: Policy(allow=tuple(allow), git=True)},
        listeners=tuple(listeners),
        git=git,
        lease=HostLease(claim_id="claim-1", token=1, expires_at=0),
    )
    sockets = []
    for listener in listeners:
        each = socket.socket()
        sockets.append(each)
        each.bind((listener.address, 0))
        each.listen()
        made.places.append(each.getsockname())
    made.site = Site(record, around, HANDLERS)
    try:
        await made.site.open(sockets)
        yield made
    finally:
        for writer in made.dialled:
            writer.transport.abort()
        await made.site.close()
        close_all(sockets)
        for _ in range(5):
            await asyncio.sleep(0)  # aborted transports close in the loop's next turns
    assert made.reports == []


@asynccontextmanager
async def upstream(
    serve: Serve, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server whose port is the value; its connections end with the block."""
    tasks: set[asyncio.Task[Any]] = set()

    async def guarded(reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side went away, which is what some tests are about
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(guarded, address, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (nothing signals what it waits for)
            await asyncio.sleep(0)
