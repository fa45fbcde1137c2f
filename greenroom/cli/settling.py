"""Waiting for pools: until they are at their target, or have failed, or are gone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from greenroom.cli.http_client import Api
from greenroom.cli.output import progress
from greenroom.core.errors import BackendError, NotFoundError, PreparationError

_PAUSE_S = 0.2


def settle(api: Api, pools: Sequence[str], within_s: float) -> list[dict[str, Any]]:
    """The pools' statuses once each is at its target; says what goes on on stderr.

    Raises PreparationError with the reason for the first that has failed, BackendError when
    ``within_s`` is over.
    """
    deadline = time.monotonic() + within_s
    said: dict[str, str] = {}
    while True:
        statuses = [api.get("pools", pool) for pool in pools]
        for status in statuses:
            line = describe(status)
            if said.get(status["pool"]) != line:
                said[status["pool"]] = line
                progress(status["pool"], line)
            raise_if_failed(status)
        if all(map(settled, statuses)):
            return statuses
        if time.monotonic() > deadline:
            late = ", ".join(status["pool"] for status in statuses if not settled(status))
            raise BackendError(f"not ready within {within_s:g} s: {late}; it goes on")
        time.sleep(_PAUSE_S)


def settled(status: dict[str, Any]) -> bool:
    """Whether a pool has what it aims at, all of it fresh; a paused one has what it has."""
    if status["paused"]:
        return True
    counts = status["counts"]
    wanted = min(status["target"], status["max"] - counts["claimed"])
    at_rest = status["refresh"]["state"] == "idle"
    return bool(at_rest and counts["stale"] == 0 and counts["ready"] >= wanted)


def describe(status: dict[str, Any]) -> str:
    """What a pool is doing, in one line."""
    counts, refresh = status["counts"], status["refresh"]
    preparing = counts["creating"] + counts["cloning"] + counts["installing"]
    parts = [f"{counts['ready']} of {status['target']} ready"]
    if preparing:
        parts.append(f"{preparing} in preparation")
    match refresh["state"]:
        case "resolving":
            parts.insert(0, "looking at the repository")
        case "building":
            parts.insert(0, f"building the snapshot of {refresh['commit'][:12]}")
        case "failed":
            parts.insert(0, "failed")
        case _:
            pass
    return ", ".join(parts)


def failure_of(status: dict[str, Any]) -> dict[str, Any] | None:
    """The failure that a pool is stuck with, if any."""
    found: dict[str, Any] | None = status["failure"] or status["refresh"]["error"]
    return found


def raise_if_failed(status: dict[str, Any]) -> None:
    """Raise PreparationError for a failure that will not go away by itself."""
    failure = failure_of(status)
    if failure is None or not (failure["permanent"] or status["retry_at"] is None):
        return
    where = f" (whole log: {failure['log']})" if failure["log"] else ""
    raise PreparationError(
        f"pool {status['pool']}: {failure['step']} failed: {failure['reason']}{where}",
        step=failure["step"],
        tail=failure["tail"],
        log=failure["log"],
    )


def wait_gone(api: Api, pool: str, within_s: float) -> None:
    """Wait until a pool has no container, or no keeper. Raises BackendError after ``within_s``."""
    deadline = time.monotonic() + within_s
    said = -1
    while True:
        try:
            status = api.get("pools", pool)
        except NotFoundError:
            return
        left = len(status["containers"])
        if not left and status["suspended"] == "down" and status["refresh"]["state"] != "building":
            return
        if left != said:
            said = left
            progress(pool, f"{left} containers left")
        if time.monotonic() > deadline:
            raise BackendError(f"pool {pool} still has {left} containers after {within_s:g} s")
        time.sleep(_PAUSE_S)
