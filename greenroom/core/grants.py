"""Granting a container, and telling those concerned: one step of the ledger and its outbox each."""

from __future__ import annotations

from greenroom.core.ledger import Ledger, Slot, Waiting
from greenroom.core.lifecycle import EndReason, Event
from greenroom.core.messages import (
    Claimed,
    ClaimReply,
    ClaimRequest,
    Queued,
    ReleaseRequest,
    Retire,
    WaitInput,
    WaitVerdict,
)
from greenroom.core.names import container_workflow_id, member_id, wait_workflow_id
from greenroom.core.queue import ready_slots, views
from greenroom.core.records import Lease, MissReason
from greenroom.core.requests import asked_by


def choose(ledger: Ledger) -> Slot | None:
    """The ready container that a claim gets: fresh before stale, then the longest ready."""
    fresh = ledger.fresh_kind()
    ready = ready_slots(ledger)
    return min(ready, key=lambda s: (s.kind != fresh, s.since, s.container), default=None)


def grant(ledger: Ledger, waiting: Waiting, count: int, now: float) -> tuple[Lease, ...]:
    """Leases on ``count`` ready containers, which are there."""
    request = waiting.request
    if request.count == 1:
        return (_lease(ledger, waiting, request.claim_id, now),)
    group = waiting.model_copy(update={"group": request.claim_id, "group_size": count})
    return tuple(
        _lease(ledger, group, member_id(request.claim_id, number), now)
        for number in range(1, count + 1)
    )


def _lease(ledger: Ledger, waiting: Waiting, claim_id: str, now: float) -> Lease:
    request, slot = waiting.request, choose(ledger)
    if slot is None:
        raise AssertionError(f"a turn without a ready container: {claim_id}")
    slot.advance(Event.CLAIMED, now)
    slot.asked = waiting.asked or asked_by(request)
    built_at = ledger.serving.built_at if ledger.is_fresh(slot) and ledger.serving else None
    lease = Lease(
        claim_id=claim_id,
        pool=ledger.pool,
        holder=request.holder,
        container=slot.container,
        container_workflow=container_workflow_id(ledger.pool, slot.container),
        host=slot.host,
        docker_id=slot.docker_id,
        commit=slot.commit,
        fingerprint=slot.fingerprint,
        snapshot_age_s=round(max(0.0, now - (built_at or slot.created_at)), 3),
        warm=not waiting.miss_reason,
        miss_reason=waiting.miss_reason or None,
        waited_s=round(now - waiting.since, 3),
        granted_at=now,
        expires_at=now + (request.ttl_s or ledger.config.lease.ttl),
        token=ledger.next_token(),
        labels=request.labels,
        heartbeat_s=request.heartbeat_s or ledger.config.lease.heartbeat,
        group=waiting.group,
        group_size=waiting.group_size,
    )
    slot.lease, slot.transferred_from = lease, 0
    slot.sent_seq += 1
    tell_container(ledger, slot, "claimed", Claimed(seq=slot.sent_seq, lease=lease))
    return lease


def retire_corpse(ledger: Ledger, slot: Slot, now: float) -> None:
    """Take the lease off a dead container and have it cleaned up."""
    slot.lease = None
    slot.ending, slot.since = EndReason.DIED, now
    slot.sent_seq += 1
    tell_container(ledger, slot, "retire", Retire(seq=slot.sent_seq, reason=EndReason.DIED))


def queued(ledger: Ledger, waiting: Waiting, now: float) -> ClaimReply:
    """The answer to a claim that waits."""
    claim_id = waiting.request.claim_id
    view = next(view for view in views(ledger, now) if view.claim_id == claim_id)
    reason: MissReason = view.miss_reason  # type: ignore[assignment]
    return ClaimReply(
        outcome="queued",
        queued=Queued(
            position=view.position,
            eta_s=view.eta_s,
            wait_workflow=wait_workflow_id(ledger.pool, claim_id),
            miss_reason=reason,
        ),
    )


def start_wait(ledger: Ledger, request: ClaimRequest) -> None:
    """Start the workflow that stands for a waiting claim."""
    ident = wait_workflow_id(ledger.pool, request.claim_id)
    ledger.post("start", ident, "Wait", WaitInput(pool=ledger.pool, request=request))


def tell_container(
    ledger: Ledger, slot: Slot, name: str, message: Claimed | ReleaseRequest | Retire
) -> None:
    """Signal a container's workflow."""
    ident = container_workflow_id(ledger.pool, slot.container)
    ledger.post("signal", ident, name, message)


def tell_wait(ledger: Ledger, claim_id: str, verdict: WaitVerdict) -> None:
    """Signal the workflow that stands for a waiting claim."""
    ledger.post("signal", wait_workflow_id(ledger.pool, claim_id), "verdict", verdict)
