"""From the end of a lease, or of a container that nobody had, to a container that is gone."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate

with workflow.unsafe.imports_passed_through():
    from greenroom.core.lifecycle import EndReason, State
    from greenroom.core.messages import ReleaseReply
    from greenroom.core.orders import EndInput
    from greenroom.core.records import Lease, SavedWork
    from workflows.life import Life
    from workflows.outbox import CLAIM

UNSAVED_KEPT = timedelta(hours=24)
"""How long a stopped container stays whose work could not be saved."""


async def finish(life: Life, reason: EndReason, *, save: bool) -> None:
    """Token refused and gate closed, stopped, saved, removed, and everybody told."""
    life.after.stop()
    lease = _lease(life)
    end = EndInput(
        pool=life.start.pool,
        container=life.start.container,
        claim_id=lease.claim_id if lease else "",
        token=lease.token if lease else 0,
        reason=reason,
        save=save and reason is not EndReason.REFUSED,
    )
    if lease is not None:
        await life.tell("ending", reason)
        await life.on_host.close(end)
        life.saved = await _saved(life, end)
    if life.saved is None or life.saved.state != "unsaved":
        await life.on_host.remove()
    life.state = State.RETIRED
    await life.tell("retired", reason)
    if lease is not None and life.saved is not None:
        await life.after.tell_ended(reply(life, lease.claim_id, life.saved))
    if life.saved is not None and life.saved.state == "unsaved":
        workflow.upsert_search_attributes(last_attributes(life))
        await workflow.sleep(UNSAVED_KEPT, summary="kept for its unsaved work")
        await life.on_host.remove()


def reply(life: Life, claim_id: str, saved: SavedWork) -> ReleaseReply:
    """How the lease ended."""
    return ReleaseReply(
        claim_id=claim_id,
        container=life.start.container,
        reason=life.end or EndReason.RELEASED,
        saved=saved,
    )


def last_attributes(life: Life) -> list[SearchAttributeUpdate]:  # type: ignore[type-arg]
    """What the workflow is found by when its container is gone."""
    lease = _lease(life)
    # Here too: a short lease may have ended before it was armed here.
    held = [CLAIM.value_set(lease.claim_id)] if lease is not None else []
    return [*life.attributes(State.RETIRED), *held]


def _lease(life: Life) -> Lease | None:
    return None if life.corpse else life.held.lease


async def _saved(life: Life, end: EndInput) -> SavedWork:
    saved = await life.on_host.save(end)
    if end.reason is EndReason.REFUSED and life.failure is not None:
        return SavedWork(state="discarded", detail=life.failure.reason)
    return saved
