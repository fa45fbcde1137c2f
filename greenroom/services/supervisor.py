"""``greenroom supervise``: keeps the processes of an install running until it is told to stop.

State it leaves for others: ``run/services.json`` with the identity of every process, rewritten
on each change, and the control socket ``run/supervisor.sock``, one JSON object a line:

    {"op":"status"}                      {"ok":true,"services":{NAME:{...}}}
    {"op":"stop"}                        answers once everything has stopped
    {"op":"restart","service":NAME}

A supervisor that is killed leaves its processes running; the next one ends exactly those that
``services.json`` names (pid and start time agree) before it starts its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths
from greenroom.services import processes
from greenroom.services.child import Backoff, Child
from greenroom.services.engine_setup import engine_in_use
from greenroom.services.process_record import end_leftovers, services_file
from greenroom.services.service_list import Service
from greenroom.services.service_list import services as service_list
from greenroom.services.settings import load_settings

_START_PATIENCE_S = 60.0


class Supervisor:
    """All services of one install."""

    def __init__(
        self, paths: StatePaths, services: Sequence[Service], backoff: Backoff | None = None
    ) -> None:
        self._paths = paths
        self._children = [
            Child(each, paths.logs / f"{each.name}.log", backoff or Backoff(), self._write)
            for each in services
        ]
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()
        self._callers: set[asyncio.Task[Any]] = set()

    def status(self) -> dict[str, Any]:
        """The state of every service by name."""
        return {child.service.name: child.state() for child in self._children}

    def _write(self) -> None:
        path = services_file(self._paths)
        fresh = path.with_suffix(".new")
        own = processes.identify(os.getpid())
        state = {"supervisor": asdict(own) if own else {}, "services": self.status()}
        fresh.write_text(json.dumps(state, indent=1))
        fresh.chmod(0o600)
        fresh.replace(path)

    async def _start_all(self) -> None:
        """Start in order, each when the one before is ready or has had its time."""
        for child in self._children:
            if self._stop.is_set():
                return
            self._tasks[child.service.name] = asyncio.create_task(child.keep())
            deadline = time.monotonic() + _START_PATIENCE_S
            while not self._stop.is_set() and time.monotonic() < deadline:
                if await asyncio.to_thread(child.ready):
                    break
                await asyncio.sleep(0.05)

    async def _stop_all(self) -> None:
        for child in reversed(self._children):
            task = self._tasks.get(child.service.name)
            if task is not None:
                await child.stop(task)
        self._write()

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        caller = asyncio.current_task()
        assert caller is not None  # noqa: S101 - a coroutine that runs has a task
        self._callers.add(caller)
        caller.add_done_callback(self._callers.discard)
        try:
            line = await asyncio.wait_for(reader.readline(), 5.0)
            if line:
                reply = await self._carry_out(line)
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        except (TimeoutError, ConnectionError) as error:
            sys.stderr.write(f"control: caller lost: {error}\n")
        finally:
            writer.close()

    async def _carry_out(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            op, name = request.get("op"), request.get("service")
        except (ValueError, AttributeError):
            return {"ok": False, "error": "bad_request", "message": "one JSON object a line"}
        if op == "stop":
            self._stop.set()
            await self._stopped.wait()
            return {"ok": True}
        if op == "restart":
            for child in self._children:
                if child.service.name == name:
                    child.restart()
                    return {"ok": True}
            return {"ok": False, "error": "not_found", "message": f"no service {name!r}"}
        if op != "status":
            return {"ok": False, "error": "bad_request", "message": f"unknown op {op!r}"}
        return {"ok": True, "services": await asyncio.to_thread(self.status)}

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or a ``stop``. Raises OSError when the socket cannot be."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        path = self._paths.supervisor_socket
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._answer, str(path))
        path.chmod(0o600)
        starting = asyncio.create_task(self._start_all())
        await self._stop.wait()
        await starting
        await self._stop_all()
        self._stopped.set()
        server.close()
        if self._callers:
            await asyncio.wait(self._callers, timeout=5.0)  # the answer to `stop` must leave
        path.unlink(missing_ok=True)


def supervise(paths: StatePaths, services: Sequence[Service]) -> None:
    """Run until told to stop. Raises UsageError when another supervisor runs this install."""
    with (paths.run / "supervisor.lock").open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"the services of {paths.root} are already supervised") from None
        for name in end_leftovers(paths):
            sys.stderr.write(f"{name}: ended, left by an earlier supervisor\n")
        asyncio.run(Supervisor(paths, services).run())


def main() -> None:
    """Entry point of ``greenroom supervise``."""
    settings = load_settings(os.environ)
    with engine_in_use():
        supervise(settings.paths, service_list(settings))
