"""``run/services.json``: which processes an install has, so that none outlives its supervisor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from greenroom.core.paths import StatePaths
from greenroom.services import processes
from greenroom.services.processes import ProcessId


def services_file(paths: StatePaths) -> Path:
    """Where the identities of the processes are written."""
    return paths.run / "services.json"


def read_services(paths: StatePaths) -> dict[str, Any]:
    """The last written state of the processes by name; empty when there is none."""
    try:
        found = json.loads(services_file(paths).read_text())
    except (FileNotFoundError, ValueError):
        return {}  # it is replaced whole: a broken one dates from before a power cut
    services: dict[str, Any] = found["services"]
    return services


def end_leftovers(paths: StatePaths) -> list[str]:
    """End the processes that a killed supervisor left. Returns their names."""
    ended = []
    for name, state in reversed(read_services(paths).items()):
        process = ProcessId(int(state.get("pid", 0)), int(state.get("started", 0)))
        if processes.is_alive(process):
            processes.end(process, grace_s=10.0)
            ended.append(name)
    return ended
