"""Ends what a step left running in a container, without ending the container.

Done from outside, over /proc: inside, a hostile or broken process could be in the way, and the
container's own tools may not be trusted to see everything.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from activities.engine import Engine
from greenroom.core.errors import EngineError

_ROUNDS = 100


def kill_leftovers(engine: Engine, container: str) -> int:
    """Kill every process of a container but its init and that one's first child; how many.

    Raises EngineError when there are always new ones (a fork bomb). A container that does not run
    has none.
    """
    seen = engine.inspect(container)
    init = int(seen["State"]["Pid"]) if seen else 0
    if not init:
        return 0
    killed = 0
    for _ in range(_ROUNDS):
        strangers = _strangers(init)
        if not strangers:
            return killed
        for pid in strangers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended by itself
            killed += 1
    raise EngineError(f"the processes of {container} cannot be ended: there are always new ones")


def _strangers(init: int) -> list[int]:
    namespace = _namespace(init)
    if namespace is None:
        return []
    members = [pid for pid in _pids() if _namespace(pid) == namespace]
    stats = {pid: stat for pid in members if (stat := _parent_and_start(pid)) is not None}
    children = [(start, pid) for pid, (state, parent, start) in stats.items() if parent == init]
    keeper = min(children)[1] if children else init
    alive = [pid for pid, (state, _, _) in stats.items() if state not in "ZX"]
    return [pid for pid in alive if pid not in {init, keeper}]


def _pids() -> list[int]:
    return [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _namespace(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # gone meanwhile, or not ours to see: then not our container's either


def _parent_and_start(pid: int) -> tuple[str, int, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return fields[0], int(fields[1]), int(fields[19])
