"""Tasks: one command in a container of its own, which goes on without the program."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from greenroom.client.options import Command, new_claim_id
from greenroom.client.transport import PATIENCE_S, Request, Transport
from greenroom.core.errors import ConflictError, NotFoundError, from_code
from greenroom.core.names import check_claim_id
from greenroom.core.task_messages import TaskResult
from greenroom.core.wire import url

_ROUND_S = 50.0
WAIT_S = 3600.0


class TaskOptions(TypedDict, total=False):
    """Keyword arguments of a Task. Times are seconds."""

    claim_id: str
    """The same id is the same Task while it runs; omitted: a new one."""
    ttl: float
    """How long its claim lives; omitted: as the pool says."""
    wait: float
    """How long to wait for a container; omitted: an hour."""
    timeout: float
    """After which the command is killed; omitted: when its claim ends."""
    holder: str
    labels: Mapping[str, str]
    priority: int
    env: Mapping[str, str]
    secrets: Mapping[str, str]
    """Variables that are sealed before anything reaches Temporal, as ``env`` is."""
    workdir: str
    discard: bool
    """Throw its work away; omitted: it is saved."""
    attempts: int
    """How often the command may be started when nobody knows how it ended; omitted: once."""


class AsyncTask:
    """A Task. Made by ``AsyncPool.start_task``, or ``AsyncPool.task`` for one that is there."""

    def __init__(self, transport: Transport, pool: str, claim_id: str) -> None:
        self._transport = transport
        self.pool = pool
        self.id = claim_id

    async def wait(self, timeout: float | None = None) -> TaskResult:  # noqa: ASYNC109 - as exec's
        """What it came to. Raises why it has no result: NotFoundError when it was cancelled.

        After ``timeout`` seconds raises TimeoutError; the Task goes on.
        """
        async with asyncio.timeout(timeout):
            while True:
                path = url("tasks", self.id, pool=self.pool, wait_s=_ROUND_S)
                request = Request("GET", path, timeout_s=_ROUND_S + PATIENCE_S)
                found: dict[str, Any] = await self._transport.ask(request)
                if found["state"] != "running":
                    break
        if error := found["error"]:
            raise from_code(error["error"], error["message"], error["details"])
        if found["result"] is None:
            raise NotFoundError(f"task {self.id} has no result: it is {found['state']}")
        return TaskResult.model_validate(found["result"])

    async def cancel(self) -> None:
        """Have its command killed, its work saved, its claim ended. Raises NotFoundError."""
        path = url("tasks", self.id, pool=self.pool)
        await self._transport.ask(Request("DELETE", path))


async def start(
    transport: Transport, pool: str, argv: Sequence[str], options: TaskOptions
) -> AsyncTask:
    """Start one. Raises NotFoundError, UsageError, ConflictError (this id has ended already)."""
    named = options.get("claim_id", "")
    body = {
        "claim_id": check_claim_id(named) if named else new_claim_id(),
        "command": list(Command.of(argv, {}).argv),
        "holder": options.get("holder", ""),
        "ttl_s": options.get("ttl", 0.0),
        "wait_s": options.get("wait", WAIT_S),
        "timeout_s": options.get("timeout", 0.0),
        "labels": dict(options.get("labels", {})),
        "priority": options.get("priority", 0),
        "env": dict(options.get("env", {})),
        "secrets": dict(options.get("secrets", {})),
        "workdir": options.get("workdir", ""),
        "save": not options.get("discard", False),
        "attempts": options.get("attempts", 1),
    }
    try:
        await transport.ask(Request("POST", url("pools", pool, "tasks"), body))
    except ConflictError:
        if named:
            raise
        # Nobody else has this id: an earlier answer was lost, and it has ended since.
    return AsyncTask(transport, pool, str(body["claim_id"]))
