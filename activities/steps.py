"""Runs one line of preparing in a container: time-out, output kept, leftovers ended."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from activities.boundary import check_cancelled
from activities.context import HostContext
from activities.engine import Exec
from activities.processes import kill_leftovers
from greenroom.core.errors import PreparationError, StepTimeoutError

LOG_LIMIT = 10 << 20
"""Bytes of one log; what comes after them is dropped."""
TAIL_LINES = 40
TAIL_BYTES = 4096


@dataclass(frozen=True)
class Line:
    """One line to run. ``step`` names it in failures; ``limit_s`` is its time-out in seconds."""

    step: str
    text: str
    command: Exec
    limit_s: float
    log: Path


def run_line(ctx: HostContext, line: Line) -> float:
    """Run it; returns the seconds that it took.

    Whatever it left running is ended, however it went. Raises PreparationError (it failed),
    StepTimeoutError (it hung), CancelledError, EngineError.
    """
    began = time.monotonic()
    kill_leftovers(ctx.engine, line.command.container)  # of a try that a crash interrupted
    output = _Output(line.log)

    def tick() -> None:
        check_cancelled()
        if time.monotonic() - began > line.limit_s:
            raise StepTimeoutError(
                f"{line.step} took longer than {line.limit_s:g} s and was ended: {line.text}",
                **output.details(line),
            )

    try:
        output.write(f"$ {line.text}\n".encode())
        code = ctx.engine.run(line.command, output.take, tick)
    finally:
        kill_leftovers(ctx.engine, line.command.container)
        output.close()
    if code != 0:
        raise PreparationError(
            f"{line.step} failed with code {code}{_hint(code, output.tail())}: {line.text}",
            **output.details(line),
        )
    return time.monotonic() - began


def _hint(code: int, tail: str) -> str:
    if "'s allow-list (phase" in tail:
        return " (the pool's network does not allow what it needs)"
    if code == 137:
        return " (killed; perhaps it needs more than the pool's limits.memory)"
    return " (no such program)" if code == 127 else ""


class _Output:
    def __init__(self, log: Path) -> None:
        log.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
        self._room = LOG_LIMIT - os.fstat(self._fd).st_size
        self._tail = bytearray()

    def take(self, _is_error: bool, data: bytes) -> None:  # noqa: FBT001  (the shape of a sink)
        self._tail = (self._tail + data)[-4 * TAIL_BYTES :]
        self.write(data)

    def write(self, data: bytes) -> None:
        if self._room > 0:
            os.write(self._fd, data[: self._room])
            self._room -= len(data)

    def tail(self) -> str:
        lines = bytes(self._tail).decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])[-TAIL_BYTES:]

    def details(self, line: Line) -> dict[str, str]:
        return {"step": line.step, "tail": self.tail(), "log": str(line.log)}

    def close(self) -> None:
        os.close(self._fd)
