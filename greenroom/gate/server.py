"""The gate's process: attaches containers, answers the control socket, and serves for ever."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from asyncio import StreamReader, StreamWriter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ValidationError

from greenroom.core.paths import StatePaths
from greenroom.core.policy import Phase
from greenroom.core.slotfile import SlotRecord
from greenroom.gate import git, privileges, proxy, tunnel
from greenroom.gate.connect import Outside, from_environment
from greenroom.gate.control import GateRefused, GateUnavailable
from greenroom.gate.decisions import Books
from greenroom.gate.namespaces import close_all
from greenroom.gate.opener import gate_user
from greenroom.gate.opener_client import OpenerClient
from greenroom.gate.site import Handler, Site, Surroundings

HANDLERS: dict[str, Handler] = {
    "proxy": proxy.serve_proxy,
    "git": git.serve,
    "http": proxy.serve_blind_http,
    "tls": tunnel.serve_blind,
    "raw": tunnel.serve_blind,
}
_RETRY_FIRST_S, _RETRY_MOST_S = 0.1, 5.0


def _print_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _report(message: str) -> None:
    sys.stderr.write(f"gate: {message}\n")
    sys.stderr.flush()


class Gate:
    """All attached containers of one install."""

    def __init__(self, paths: StatePaths, outside: Outside, books: Books | None = None) -> None:
        self._paths = paths
        self._opener = OpenerClient(paths)
        self.books = books or Books(write=_print_line)
        self._around = Surroundings(outside, self.books, paths.mirrors, _report)
        self._sites: dict[str, Site] = {}
        self._errors: dict[str, str] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}
        # One for all: the opener answers one at a time anyway. Applying needs none.
        self._lock = asyncio.Lock()

    async def attach(self, container: str) -> None:
        """Open a container's listeners and apply its phase; idempotent.

        Raises GateRefused (no_record, no_namespace, port_taken), GateUnavailable.
        """
        async with self._lock:
            record = self._record(container)
            site = self._sites.get(container)
            if site is not None:
                old = site.record
                if (old.sandbox_key, old.listeners) == (record.sandbox_key, record.listeners):
                    self._swap(site, record)
                    return
                del self._sites[container]
                await site.close()
            unknown = {each.kind for each in record.listeners} - set(HANDLERS)
            if unknown:
                raise GateRefused("bad_record", f"unknown listener kinds {sorted(unknown)}")
            sockets = await asyncio.to_thread(self._opener.listen, container)
            site = Site(record, self._around, HANDLERS)
            try:
                await site.open(sockets)
                # Read again: the phase may have moved on meanwhile.
                self._swap(site, self._record(container))
            except (OSError, ValueError, GateRefused) as error:
                await site.close()
                close_all(sockets)
                if isinstance(error, GateRefused):
                    raise
                raise GateRefused("failed", f"cannot listen: {error}") from error
            self._sites[container] = site
            self._errors.pop(container, None)

    def apply(self, container: str) -> None:
        """Swap in the record as it stands now. Raises GateRefused (no_record, not_attached)."""
        site = self._sites.get(container)
        if site is None:
            raise GateRefused("not_attached", f"container {container} is not attached")
        self._swap(site, self._record(container))

    async def detach(self, container: str) -> None:
        """Close a container's listeners and connections; an unknown one is success."""
        async with self._lock:
            self._errors.pop(container, None)
            site = self._sites.pop(container, None)
            self._set_alarm(container, None)
            if site is not None:
                await site.close()

    def list(self) -> dict[str, dict[str, Any]]:
        """What is attached, and what could not be."""
        found: dict[str, dict[str, Any]] = {
            container: {
                "phase": site.record.phase.value,
                "listeners": site.listeners,
                "connections": site.connections,
            }
            for container, site in self._sites.items()
        }
        return {**{c: {"error": code} for c, code in self._errors.items()}, **found}

    async def reattach(self) -> bool:
        """Attach every recorded container that is not ended; False while the opener is away."""
        complete = True
        for file in sorted(self._paths.slots.glob("[!.]*.json")):
            container = file.stem
            try:
                if container not in self._sites and self._record(container).phase != Phase.ENDED:
                    await self.attach(container)
            except GateRefused as error:
                self._failed(container, error.reason, str(error))
            except GateUnavailable as error:
                complete = False
                self._failed(container, "opener_unavailable", str(error))
        return complete

    async def close(self) -> None:
        """Close everything."""
        for container in tuple(self._sites):
            await self.detach(container)

    def _swap(self, site: Site, record: SlotRecord) -> None:
        """Apply a record; a lease that is over allows nothing, whoever has not noticed yet.

        Its workflow ends it, but may be unable to: Temporal or the worker may be away.
        """
        lease, left = record.lease, None
        if record.phase is Phase.CLAIMED and lease is not None:
            left = lease.expires_at - time.time()
        over = left is not None and left <= 0
        site.apply(record.model_copy(update={"phase": Phase.ENDED}) if over else record)
        self._set_alarm(record.container, None if over else left)

    def _set_alarm(self, container: str, left: float | None) -> None:
        known = self._ends.pop(container, None)
        if known is not None:
            known.cancel()
        if left is not None:
            loop = asyncio.get_running_loop()
            self._ends[container] = loop.call_later(left, self._look_again, container)

    def _look_again(self, container: str) -> None:
        """A lease's end has come, unless the record has a later one by now."""
        try:
            self.apply(container)
        except GateRefused as error:
            self._failed(container, error.reason, str(error))
            site = self._sites.get(container)
            if site is not None:
                site.apply(site.record.model_copy(update={"phase": Phase.ENDED}))

    def _failed(self, container: str, code: str, message: str) -> None:
        if self._errors.get(container) != code:
            _report(f"cannot attach {container}: {message}")
        self._errors[container] = code

    def _record(self, container: str) -> SlotRecord:
        if not container.replace("-", "").replace("_", "").isalnum():
            raise GateRefused("bad_request", f"{container!r} is not a container id")
        try:
            return SlotRecord.model_validate_json(self._paths.slot(container).read_bytes())
        except FileNotFoundError as error:
            raise GateRefused("no_record", f"no record of container {container}") from error
        except ValidationError as error:
            raise GateRefused("bad_record", f"record of {container}: {error}") from error


class ControlServer:
    """Answers the control socket for root and for the gate's own user."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer requests, one line each, until the peer closes."""
        try:
            raw: socket.socket = writer.get_extra_info("socket")
            credentials = raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            _, uid, _ = struct.unpack("3i", credentials)
            while uid in {0, os.geteuid()} and (line := await reader.readline()):
                reply = await self.answer(line)
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError) as error:
            _report(f"a control connection broke off: {error}")
        finally:
            writer.close()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """The reply to one request."""
        try:
            request = json.loads(line)
            op, container = str(request["op"]), str(request.get("container", ""))
            return {"ok": True, **await self._carry_out(op, container)}
        except GateRefused as error:
            return {"ok": False, "error": error.reason, "message": str(error)}
        except GateUnavailable as error:
            return {"ok": False, "error": "opener_unavailable", "message": str(error)}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            return {"ok": False, "error": "bad_request", "message": repr(error)}

    async def _carry_out(self, op: str, container: str) -> dict[str, Any]:
        gate = self._gate
        if op == "attach":
            await gate.attach(container)
        elif op == "apply":
            gate.apply(container)
        elif op == "detach":
            await gate.detach(container)
        elif op == "list":
            return {"containers": gate.list()}
        elif op == "stats":
            return {"pools": gate.books.pools, "log_lines_lost": gate.books.lost}
        else:
            raise GateRefused("bad_request", f"unknown op {op!r}")
        return {}


async def serve(paths: StatePaths, outside: Outside) -> None:
    """Re-attach what is recorded, answer the control socket, and return on SIGTERM or SIGINT.

    Prints ``ready`` when both are done. Raises OSError when the socket cannot be made.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=32))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    gate = Gate(paths, outside)
    complete = await gate.reattach()
    retries = None if complete else loop.create_task(_retry(gate))
    paths.gate_socket.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(ControlServer(gate).serve, str(paths.gate_socket))
    paths.gate_socket.chmod(0o660)
    _print_line("ready")
    try:
        await stop.wait()
    finally:
        if retries is not None:
            retries.cancel()
        server.close()
        await gate.close()
        paths.gate_socket.unlink(missing_ok=True)


async def _retry(gate: Gate) -> None:
    """Go on re-attaching until the opener answered for every container."""
    pause = _RETRY_FIRST_S
    while not await gate.reattach():
        await asyncio.sleep(pause)
        pause = min(2 * pause, _RETRY_MOST_S)


def run(paths: StatePaths, outside: Outside) -> None:
    """Serve until told to stop, without root's rights."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if os.geteuid() == 0:
        privileges.drop(gate_user())
    asyncio.run(serve(paths, outside))


def main() -> None:
    """Entry point of ``greenroom gate``."""
    # Imported here: the settings are the composition's business, not the gate's.
    from greenroom.services.settings import load_settings  # noqa: PLC0415

    run(load_settings(os.environ).paths, from_environment())
