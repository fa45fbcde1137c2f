"""Processes by identity: a pid alone may have passed to another program since it was noted."""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class ProcessId:
    """A pid with its start time in clock ticks since boot: together unique until a reboot."""

    pid: int
    started: int


def _stat(pid: int, proc: Path = PROC) -> tuple[str, int] | None:
    """State letter and start time of a process; None when there is none."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    return fields[0], int(fields[19])


def identify(pid: int) -> ProcessId | None:
    """The identity of a running process; None when it has ended (zombies count as ended)."""
    found = _stat(pid)
    return None if found is None or found[0] in "ZX" else ProcessId(pid, found[1])


def is_alive(process: ProcessId) -> bool:
    """Whether this very process still runs."""
    return process.pid > 0 and identify(process.pid) == process


def program(pid: int, proc: Path = PROC) -> str:
    """The short name (at most 15 characters) of a running process; empty when there is none."""
    found = _stat(pid, proc)
    if found is None or found[0] in "ZX":
        return ""
    try:
        return (proc / str(pid) / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def signal_group(pid: int, number: int) -> None:
    """Signal the process group that ``pid`` leads; one that is gone is success."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def end(process: ProcessId, grace_s: float, *, group: bool = True) -> None:
    """End this very process (and the group it leads): SIGTERM, after ``grace_s`` SIGKILL.

    Returns when it has ended. Raises TimeoutError when even SIGKILL does not end it in 10 s.
    """
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        if not is_alive(process):
            return
        for number, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            if group:
                signal_group(process.pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
            if _ended(handle, process, patience):
                if group:
                    signal_group(process.pid, signal.SIGKILL)
                return
    finally:
        os.close(handle)
    raise TimeoutError(f"process {process.pid} does not end")


def _ended(handle: int, process: ProcessId, patience: float) -> bool:
    """Wait until a process has ended; a pidfd becomes readable then."""
    deadline = time.monotonic() + patience
    while is_alive(process):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        select.select([handle], [], [], left)
    return True
