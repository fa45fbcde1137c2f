"""Granting a container, and telling those concerned: one step of the ledger and its outbox each."""

from __future__ import annotations

from greenroom.core.errors import UsageError
from greenroom.core.ledger import Ledger, Slot, Waiting
from greenroom.core.lifecycle import EndReason, Event
from greenroom.core.messages import (
    CancelClaim,
    Claimed,
    ClaimReply,
    ClaimRequest,
    Queued,
    ReleaseReply,
    ReleaseRequest,
    Retire,
    WaitInput,
    WaitVerdict,
)
from greenroom.core.names import (
    WORKFLOW_ID_BYTES,
    container_workflow_id,
    member_id,
    wait_workflow_id,
)
from greenroom.core.queue import ready_slots, view_of
from greenroom.core.records import Lease, MissReason, SavedWork
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
        heartbeat_s=_heartbeat(ledger, request),
        group=waiting.group,
        group_size=waiting.group_size,
    )
    slot.lease, slot.transferred_from = lease, 0
    # Only hooks wait for the API's part.
    brings = request.brings and bool(ledger.config.hooks.claim)
    slot.brought = request.model_copy(update={"brings": brings}).brought()
    slot.sent_seq += 1
    told = Claimed(seq=slot.sent_seq, lease=lease, brought=slot.brought)
    tell_container(ledger, slot, "claimed", told)
    return lease


def _heartbeat(ledger: Ledger, request: ClaimRequest) -> float:
    """What the claim asks for, else the pool's, which is for holders that can vanish."""
    return request.heartbeat_s or (0.0 if request.reply_to else ledger.config.lease.heartbeat)


def retire_corpse(ledger: Ledger, slot: Slot, now: float) -> None:
    """Take the lease off a dead container and have it cleaned up."""
    slot.lease = slot.brought = None
    slot.ending, slot.since = EndReason.DIED, now
    slot.sent_seq += 1
    tell_container(ledger, slot, "retire", Retire(seq=slot.sent_seq, reason=EndReason.DIED))


def queued(ledger: Ledger, waiting: Waiting, now: float) -> ClaimReply:
    """The answer to a claim that waits."""
    view = view_of(ledger, waiting.request.claim_id, now)
    if view is None:
        raise AssertionError(f"not in the queue: {waiting.request.claim_id}")
    reason: MissReason = view.miss_reason  # type: ignore[assignment]
    return ClaimReply(
        outcome="queued",
        queued=Queued(
            position=view.position,
            eta_s=view.eta_s,
            wait_workflow=_waiting_workflow(ledger, waiting.request),
            miss_reason=reason,
        ),
    )


def start_wait(ledger: Ledger, request: ClaimRequest) -> None:
    """Start the workflow that stands for a waiting claim; its ``reply_to`` stands for itself."""
    if request.reply_to:
        return
    ident = wait_workflow_id(ledger.pool, request.claim_id)
    light = request.model_copy(update={"sealed": {}, "host_secrets": ()})  # not a Wait's business
    ledger.post("start", ident, "Wait", WaitInput(pool=ledger.pool, request=light))


def tell_container(
    ledger: Ledger, slot: Slot, name: str, message: Claimed | ReleaseRequest | Retire
) -> None:
    """Signal a container's workflow."""
    ident = container_workflow_id(ledger.pool, slot.container)
    ledger.post("signal", ident, name, message)


def tell_wait(ledger: Ledger, claim: ClaimRequest | CancelClaim, verdict: WaitVerdict) -> None:
    """Signal the workflow that stands for a claim: its ``Wait``, or its ``reply_to``."""
    ledger.post("signal", _waiting_workflow(ledger, claim), "verdict", verdict)


def tell_ended(ledger: Ledger, slot: Slot, reason: EndReason) -> None:
    """Word to a claim's ``reply_to`` where the container's own workflow cannot say it."""
    if slot.lease is None or slot.brought is None or not slot.brought.reply_to:
        return
    never = SavedWork(state="discarded", detail="the container's workflow is gone, or never knew")
    news = ReleaseReply(
        claim_id=slot.lease.claim_id, container=slot.container, reason=reason, saved=never
    )
    ledger.post("signal", slot.brought.reply_to, "ended", news)


def check_receiver(ledger: Ledger, claim: ClaimRequest | CancelClaim) -> None:
    """Refuse a claim of which no workflow could be told. Raises UsageError."""
    if len(_waiting_workflow(ledger, claim).encode()) > WORKFLOW_ID_BYTES:
        raise UsageError("claim_id or reply_to is too long to be told of")


def _waiting_workflow(ledger: Ledger, claim: ClaimRequest | CancelClaim) -> str:
    return claim.reply_to or wait_workflow_id(ledger.pool, claim.claim_id)
