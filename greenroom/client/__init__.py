"""Greenroom for Python programs: over the HTTP API, or over Temporal.

``Greenroom`` and ``AsyncGreenroom`` speak to the API of a host. ``PoolClient`` sends the same
messages over Temporal, for services that have a client of it anyway. Each is imported when it is
first named: the one needs no temporalio, the other no httpx, and ``greenroom.core`` is all of
Greenroom that either needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenroom.client.blocking import Claim, Greenroom, Pool, RunningCommand, Saved, Task
    from greenroom.client.claim import AsyncClaim
    from greenroom.client.commands import AsyncRunningCommand, Chunk, Completed
    from greenroom.client.pool_client import (
        ANSWER_S,
        SAFE_IN_FLIGHT,
        SAVE_S,
        PoolClient,
        connect,
        ensure_watch,
    )
    from greenroom.client.room import AsyncGreenroom, AsyncPool
    from greenroom.client.saved import AsyncSaved
    from greenroom.client.task import AsyncTask

_FROM = {
    "blocking": ("Greenroom", "Pool", "Claim", "RunningCommand", "Saved", "Task"),
    "claim": ("AsyncClaim",),
    "commands": ("AsyncRunningCommand", "Chunk", "Completed"),
    "pool_client": (
        "ANSWER_S",
        "SAFE_IN_FLIGHT",
        "SAVE_S",
        "PoolClient",
        "connect",
        "ensure_watch",
    ),
    "room": ("AsyncGreenroom", "AsyncPool"),
    "saved": ("AsyncSaved",),
    "task": ("AsyncTask",),
}
_WHERE = {name: module for module, names in _FROM.items() for name in names}

__all__ = [
    "ANSWER_S",
    "SAFE_IN_FLIGHT",
    "SAVE_S",
    "AsyncClaim",
    "AsyncGreenroom",
    "AsyncPool",
    "AsyncRunningCommand",
    "AsyncSaved",
    "AsyncTask",
    "Chunk",
    "Claim",
    "Completed",
    "Greenroom",
    "Pool",
    "PoolClient",
    "RunningCommand",
    "Saved",
    "Task",
    "connect",
    "ensure_watch",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
