"""One supervised process: started, watched, started again, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenroom.services import processes
from greenroom.services.processes import ProcessId
from greenroom.services.service_list import Service

_LOG_LIMIT_BYTES = 20 << 20


@dataclass(frozen=True)
class Backoff:
    """Pauses before a process that died is started again, in seconds."""

    first_s: float = 0.2
    most_s: float = 10.0
    settled_s: float = 30.0

    def after(self, pause_s: float, lived_s: float) -> float:
        """The next pause, from the last one and how long the process lived since."""
        if lived_s >= self.settled_s or pause_s == 0:
            return self.first_s
        return min(2 * pause_s, self.most_s)


class Child:
    """One service and the process that runs it now."""

    def __init__(
        self, service: Service, log: Path, backoff: Backoff, changed: Callable[[], None]
    ) -> None:
        self.service = service
        self._log = log
        self._backoff = backoff
        self._changed = changed
        self._process: subprocess.Popen[bytes] | None = None
        self.identity: ProcessId | None = None
        self.restarts = -1
        self.last_exit: int | None = None
        self._log_start = 0
        self._was_ready = False
        self._stopping = asyncio.Event()

    def state(self) -> dict[str, Any]:
        """What ``status`` and services.json say of it."""
        identity = self.identity
        return {
            "pid": identity.pid if identity else 0,
            "started": identity.started if identity else 0,
            "command": list(self.service.command),
            "restarts": max(self.restarts, 0),
            "last_exit": self.last_exit,
            "ready": self.ready(),
            "log": str(self._log),
        }

    def ready(self) -> bool:
        """Whether the process runs and has become ready since its start."""
        if self.identity is None:
            return False
        if not self._was_ready:
            try:
                with self._log.open("rb") as log:
                    log.seek(self._log_start)
                    output = log.read(1 << 20).decode(errors="replace")
            except FileNotFoundError:
                return False  # somebody removed the log
            self._was_ready = self.service.ready(output)
        return self._was_ready

    def _start(self) -> None:
        if self._log.exists() and self._log.stat().st_size > _LOG_LIMIT_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        with self._log.open("ab") as sink:
            self._log_start = sink.tell()
            self._process = subprocess.Popen(
                self.service.command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd="/",
                env={**os.environ, **self.service.environ},
                start_new_session=True,
                umask=self.service.umask,
            )
        self.identity = processes.identify(self._process.pid)
        self._was_ready = False
        self.restarts += 1
        self._changed()

    async def _ended(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the end of the process, and end what it leaves in its group.

        The group is signalled before the process is reaped: until then its number is taken.
        """
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        handle = os.pidfd_open(process.pid)
        loop.add_reader(handle, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(handle)
            os.close(handle)
        processes.signal_group(process.pid, signal.SIGKILL)
        self.last_exit = process.wait()
        self.identity = None

    async def keep(self) -> None:
        """Run the service until ``stop``, starting it again whenever it ends."""
        pause = 0.0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._start()
            except OSError as error:
                sys.stderr.write(f"{self.service.name}: cannot start: {error}\n")
            else:
                assert self._process is not None  # noqa: S101 - set by _start
                await self._ended(self._process)
                sys.stderr.write(f"{self.service.name}: ended with {self.last_exit}\n")
            self._changed()
            pause = self._backoff.after(pause, time.monotonic() - began)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    def _terminate(self) -> None:
        if self.identity is not None:
            with suppress(ProcessLookupError):
                os.kill(self.identity.pid, signal.SIGTERM)
                os.kill(self.identity.pid, signal.SIGCONT)  # one that is stopped hears nothing

    def _kill(self, process: ProcessId | None) -> None:
        """End a process by force, unless another has taken its place."""
        if process is not None and process == self.identity:
            processes.signal_group(process.pid, signal.SIGKILL)

    def restart(self) -> None:
        """Have the process end within its grace; ``keep`` then starts it again."""
        self._terminate()
        loop = asyncio.get_running_loop()
        loop.call_later(self.service.grace_s, self._kill, self.identity)

    async def stop(self, running: asyncio.Task[None]) -> None:
        """End the process within its grace, by force after that; ``running`` is ``keep``."""
        self._stopping.set()
        self._terminate()
        await asyncio.wait([running], timeout=self.service.grace_s)
        self._kill(self.identity)
        await running
