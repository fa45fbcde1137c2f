"""Starting, asking and stopping the supervisor of an install from another process."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenroom.core.errors import BackendError
from greenroom.core.paths import StatePaths
from greenroom.services import detached
from greenroom.services.process_record import end_leftovers
from greenroom.services.progress import Report

_START_PATIENCE_S = 15.0
_STOP_PATIENCE_S = 120.0


def _ask(paths: StatePaths, request: Mapping[str, str], patience_s: float) -> dict[str, Any] | None:
    """The supervisor's answer; None when none runs. Raises BackendError when it is silent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(patience_s)
        try:
            caller.connect(str(paths.supervisor_socket))
            caller.sendall(json.dumps(request).encode() + b"\n")
            with caller.makefile("rb") as stream:
                line = stream.readline()
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
            return None
        except OSError as error:
            raise BackendError(
                f"the supervisor of {paths.root} does not answer: {error}"
            ) from error
    if not line:
        return None  # it ended while we asked
    reply: dict[str, Any] = json.loads(line)
    return reply


def status(paths: StatePaths) -> dict[str, dict[str, Any]] | None:
    """The state of every service by name; None when no supervisor runs.

    Each: ``pid, started, command, restarts, last_exit, ready, log``. Raises BackendError.
    """
    reply = _ask(paths, {"op": "status"}, 10.0)
    return None if reply is None else reply["services"]


def restart(paths: StatePaths, service: str) -> None:
    """Have one service end and start again. Raises BackendError."""
    reply = _ask(paths, {"op": "restart", "service": service}, 10.0)
    if reply is None:
        raise BackendError(f"no services run for {paths.root}")
    if not reply["ok"]:
        raise BackendError(str(reply["message"]))


def start_detached(paths: StatePaths, environ: Mapping[str, str], report: Report) -> bool:
    """Start the supervisor unless it runs; returns whether it was started.

    Returns when it answers, before its services are ready. Raises BackendError.
    """
    if status(paths) is not None:
        return False
    report("services", "starting the supervisor")
    log = paths.logs / "supervisor.log"
    program = Path(sys.executable).parent / "greenroom"
    child = detached.start(
        [str(program), "supervise"], log, {**environ, "GREENROOM_STATE": str(paths.root)}
    )
    deadline = time.monotonic() + _START_PATIENCE_S
    while status(paths) is None:
        if child.poll() is not None or time.monotonic() > deadline:
            raise BackendError(f"the supervisor does not start: {last_line(log)} (log: {log})")
        time.sleep(0.05)
    return True


def stop(paths: StatePaths, report: Report) -> None:
    """Stop the supervisor and every service; none running is success. Raises BackendError."""
    if not paths.run.is_dir():
        return
    report("services", "stopping")
    _ask(paths, {"op": "stop"}, _STOP_PATIENCE_S)
    _wait_for_lock(paths)
    for name in end_leftovers(paths):
        report("services", f"ended {name}, left by a killed supervisor")


def _wait_for_lock(paths: StatePaths) -> None:
    """Wait until the supervisor's process has gone."""
    deadline = time.monotonic() + _STOP_PATIENCE_S
    with (paths.run / "supervisor.lock").open("a") as held:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BackendError(f"the supervisor of {paths.root} does not end") from None
                time.sleep(0.05)
            else:
                return


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        with log.open("rb") as source:
            source.seek(max(0, os.fstat(source.fileno()).st_size - 8192))
            lines = source.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "no output"
    return next((line for line in reversed(lines) if line.strip()), "no output")
