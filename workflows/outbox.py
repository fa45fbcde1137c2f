"""Sends the ledger's outbox, and removes an entry only when Temporal has recorded it.

Outbound Signals and child starts that are not awaited are lost in the task that continues as
new; so each is awaited by a task of its own, and the keeper hands over only when none is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from temporalio import workflow
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    SearchAttributeUpdate,
    TypedSearchAttributes,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError

with workflow.unsafe.imports_passed_through():
    from greenroom.core.ledger import Ledger, OutboxEntry

POOL = SearchAttributeKey.for_keyword("GreenroomPool")
STATE = SearchAttributeKey.for_keyword("GreenroomState")
CLAIM = SearchAttributeKey.for_keyword("GreenroomClaim")
COMMIT = SearchAttributeKey.for_keyword("GreenroomCommit")
FINGERPRINT = SearchAttributeKey.for_keyword("GreenroomFingerprint")
HOST = SearchAttributeKey.for_keyword("GreenroomHost")

_ONCE = {"Container"}
"""Workflows whose id is used once for ever; others may run again after they closed."""


@dataclass(frozen=True)
class Undeliverable:
    """Temporal says that an entry's receiver does not exist (any more)."""

    entry: OutboxEntry
    reason: str


class Sender:
    """Sends every entry of ``ledger.outbox`` once per run; ``done`` hears of each end."""

    def __init__(self, ledger: Ledger, done: Callable[[Undeliverable | None], None]) -> None:
        self._ledger = ledger
        self._done = done
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is on its way."""
        return bool(self._tasks)

    def pump(self) -> None:
        """Start sending what is not on its way yet; one at a time to each receiver, in order."""
        receivers = set()
        for entry in self._ledger.outbox:
            if entry.workflow_id not in receivers and entry.id not in self._tasks:
                self._tasks[entry.id] = asyncio.create_task(self._send(entry))
            receivers.add(entry.workflow_id)

    async def _send(self, entry: OutboxEntry) -> None:
        failed: Undeliverable | None = None
        try:
            if entry.kind == "start":
                await _start_soon(self._ledger.pool, entry)
            else:
                handle = workflow.get_external_workflow_handle(entry.workflow_id)
                await handle.signal(entry.name, entry.payload)
        except ApplicationError as error:
            failed = Undeliverable(entry, error.message)
        self._ledger.outbox.remove(entry)
        del self._tasks[entry.id]
        self._done(failed)
        self.pump()


async def _start_soon(pool: str, entry: OutboxEntry) -> None:
    """Start a child; one of the same id that is just closing is waited for.

    One that goes on running was started by an earlier run of the keeper: that is delivered.
    """
    for wait_s in (0.5, 1.0, 2.0, 0.0):
        try:
            await _start(pool, entry)
        except WorkflowAlreadyStartedError:
            if entry.name in _ONCE or not wait_s:
                return
            await workflow.sleep(wait_s, summary=f"{entry.name} of the same id is closing")
        else:
            return


async def _start(pool: str, entry: OutboxEntry) -> None:
    once = entry.name in _ONCE
    await workflow.start_child_workflow(
        entry.name,
        entry.payload,
        id=entry.workflow_id,
        parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        id_reuse_policy=(
            WorkflowIDReusePolicy.REJECT_DUPLICATE
            if once
            else WorkflowIDReusePolicy.ALLOW_DUPLICATE
        ),
        search_attributes=_found_by(pool, entry),
        static_summary=f"{entry.name} of pool {pool}",
    )


def _found_by(pool: str, entry: OutboxEntry) -> TypedSearchAttributes:
    """What a child is found by from its start on, so that it need not say so itself."""
    source = entry.payload.get("source") or entry.payload.get("snapshot", {}).get("source") or {}
    known = [(POOL, pool), (COMMIT, source.get("commit")), (FINGERPRINT, source.get("fingerprint"))]
    return TypedSearchAttributes([SearchAttributePair(key, value) for key, value in known if value])


def pool_attributes(pool: str) -> list[SearchAttributeUpdate]:  # type: ignore[type-arg]
    """What the keeper is found by."""
    return [POOL.value_set(pool)]
