"""A container as the gate sees it: its record, its listeners and its open connections.

The listener a connection came in by says which container it is; nothing that the container
sends can change that.
"""

from __future__ import annotations

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from greenroom.core.policy import Endpoint, Listener, Phase, Policy
from greenroom.core.slotfile import SlotRecord
from greenroom.gate.authority import Target
from greenroom.gate.connect import STREAM_LIMIT, Outside, UpstreamError, reset, tune
from greenroom.gate.decisions import Books, Caller, Entry
from greenroom.gate.resolve import AddressError, ResolveError

MAX_CONNECTIONS = 512
MAX_GIT = 8
"""Connections, and git processes among them, of one container at a time."""


class RefusalError(Exception):
    """A request that gets no connection: the HTTP status and a text that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Surroundings:
    """What all containers of one gate share."""

    outside: Outside
    books: Books
    mirrors: Path
    report: Callable[[str], None]


@dataclass(frozen=True)
class Passage:
    """An open connection to an allowed endpoint."""

    reader: StreamReader
    writer: StreamWriter
    entry: Entry

    def abort(self) -> None:
        """Drop the connection at once."""
        reset(self.writer)


@dataclass(eq=False)
class Flow:
    """One connection from a container, and what it is being used for right now."""

    site: Site
    listener: Listener
    reader: StreamReader
    writer: StreamWriter
    target: Target | None = None
    git: bool = False
    cut_reason: str = ""
    _aborts: list[Callable[[], None]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    def allowed_by(self, policy: Policy) -> bool:
        """Whether what it is used for is allowed; an idle one is."""
        if self.git:
            return policy.git
        return self.target is None or policy.match(self.target.host, self.target.port) is not None

    def on_cut(self, abort: Callable[[], None]) -> None:
        """Have ``abort`` called when the flow is cut."""
        self._aborts.append(abort)

    def cut(self, reason: str) -> None:
        """End it now, both ways, whatever is still buffered."""
        self.cut_reason = reason
        reset(self.writer)
        for abort in self._aborts:
            abort()
        if self.task is not None:
            self.task.cancel()

    async def reach(self, target: Target) -> Passage:
        """Connect to ``target`` if the policy of this moment allows it. Raises RefusalError.

        The caller closes the passage's entry.
        """
        site, books = self.site, self.site.around.books
        endpoint = site.record.policy.match(target.host, target.port)
        if endpoint is None:
            books.denied(site.caller, target, "not in the allow-list")
            raise RefusalError(403, site.not_allowed(target))
        # Set before the first await: a policy swapped in from now on finds this flow.
        self.target = target
        entry = books.allowed(site.caller, target)
        try:
            reader, writer = await self._dial(endpoint, target, entry)
        finally:
            if self.cut_reason:
                entry.close(self.cut_reason)
        passage = Passage(reader, writer, entry)
        self.on_cut(passage.abort)
        return passage

    async def _dial(
        self, endpoint: Endpoint, target: Target, entry: Entry
    ) -> tuple[StreamReader, StreamWriter]:
        try:
            return await self.site.around.outside.connect(endpoint, target.port)
        except AddressError as error:
            entry.deny(str(error))
            raise RefusalError(403, f"greenroom: {target}: {error}") from error
        except (ResolveError, UpstreamError) as error:
            entry.close(str(error))
            late = isinstance(error, UpstreamError) and error.timed_out
            message = f"greenroom: {target} cannot be reached: {error}"
            raise RefusalError(504 if late else 502, message) from error

    def release(self, passage: Passage, reason: str) -> None:
        """Log the end of a passage, close it and be idle again."""
        passage.entry.close(self.cut_reason or reason)
        passage.writer.close()
        self._aborts.clear()
        self.target = None


Handler = Callable[[Flow], Awaitable[None]]


class Site:
    """One attached container."""

    def __init__(
        self, record: SlotRecord, around: Surroundings, handlers: Mapping[str, Handler]
    ) -> None:
        self.record = record
        self.around = around
        self.git_slots = asyncio.Semaphore(MAX_GIT)
        self._handlers = handlers
        self._flows: set[Flow] = set()
        self._servers: list[asyncio.Server] = []

    @property
    def caller(self) -> Caller:
        """Names for the log."""
        lease = self.record.lease
        claim = lease.claim_id if lease is not None else ""
        return Caller(self.record.pool, self.record.container, claim)

    @property
    def listeners(self) -> int:
        """How many sockets listen."""
        return len(self._servers)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._flows)

    def not_allowed(self, target: Target) -> str:
        """The sentence that a program gets which asked for something else than allowed."""
        record = self.record
        return (
            f"greenroom: {target} is not in pool {record.pool}'s allow-list (phase {record.phase})"
        )

    async def open(self, sockets: list[socket.socket]) -> None:
        """Serve the sockets, which stand in the order of the record's listeners."""
        for listener, each in zip(self.record.listeners, sockets, strict=True):
            each.setblocking(False)
            self._servers.append(
                await asyncio.start_server(
                    partial(self._accept, listener), sock=each, limit=STREAM_LIMIT, backlog=128
                )
            )

    def apply(self, record: SlotRecord) -> None:
        """Swap the record, and with it the policy, as one value.

        New connections see it at once; established ones to what is no longer allowed are cut,
        in phase ended all of them.
        """
        self.record = record
        for flow in tuple(self._flows):
            if record.phase is Phase.ENDED or not flow.allowed_by(record.policy):
                flow.cut(f"cut: phase {record.phase}")

    async def close(self) -> None:
        """Close the listeners and every connection."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        tasks = [flow.task for flow in self._flows if flow.task is not None]
        for flow in tuple(self._flows):
            flow.cut("cut: detached")
        await asyncio.gather(*tasks, return_exceptions=True)
        self.around.books.forget(self.record.container)

    def _accept(self, listener: Listener, reader: StreamReader, writer: StreamWriter) -> None:
        if self.record.phase is Phase.ENDED or not self._servers:
            writer.transport.abort()
            return
        if len(self._flows) >= MAX_CONNECTIONS:
            target = Target(listener.host or listener.address, listener.port)
            self.around.books.denied(self.caller, target, f"over {MAX_CONNECTIONS} connections")
            writer.transport.abort()
            return
        tune(writer)
        flow = Flow(self, listener, reader, writer)
        self._flows.add(flow)
        flow.task = asyncio.get_running_loop().create_task(self._serve(flow))

    async def _serve(self, flow: Flow) -> None:
        try:
            await self._handlers[flow.listener.kind](flow)
        except OSError:
            reset(flow.writer)  # one side went away: the connection is over
        except asyncio.CancelledError:
            if not flow.cut_reason:
                raise
        except Exception as error:  # noqa: BLE001
            # A bug in one connection must not end the gate for all containers.
            self.around.report(f"connection of {self.record.container} failed: {error!r}")
            flow.writer.transport.abort()
        finally:
            flow.writer.close()
            self._flows.discard(flow)
