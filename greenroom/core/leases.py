"""Who gets which container: claiming, queueing, releasing, over the ledger and nothing else.

Each function changes the ledger and posts what must be told to its outbox in one step, so that
choosing and marking a container cannot be torn apart.
"""

from __future__ import annotations

import hashlib
import json

from greenroom.core import sealed
from greenroom.core.errors import (
    ClaimTooOldError,
    ConflictError,
    FencedError,
    GreenroomError,
    NoContainerError,
    NotFoundError,
    UsageError,
)
from greenroom.core.ledger import Ledger, Slot, Waiting, bump
from greenroom.core.lifecycle import EndReason, Event, State
from greenroom.core.messages import (
    CancelClaim,
    ClaimAnswer,
    ClaimBatch,
    ClaimBatchReply,
    Claimed,
    ClaimReply,
    ClaimRequest,
    Queued,
    Refusal,
    ReleaseReply,
    ReleaseRequest,
    Retire,
    WaitInput,
    WaitVerdict,
)
from greenroom.core.names import check_claim_id, container_workflow_id, wait_workflow_id
from greenroom.core.plan import IN_FLIGHT, STREAK_LIMIT
from greenroom.core.records import Lease, MissReason, SavedWork

QUEUE_DEPTH = 500
HOLDER_CHARACTERS = 200
LABEL_BYTES = 1024
"""What a claim may carry into the ledger, whose size is bounded."""
WORKFLOW_ID_CHARACTERS = 1000
_NOT_BY_CHOICE = (None, EndReason.DIED, EndReason.LOST)
"""Ends of a container (None: not ending) that its claim's holder did not ask for."""
SIGNAL_PATIENCE_S = 3600.0
"""How long a claim by Signal waits when it does not say."""


def check_request(ledger: Ledger, request: ClaimRequest) -> None:
    """Refuse a malformed request; raises UsageError and changes nothing (no event is written)."""
    check_claim_id(request.claim_id)
    longest = ledger.config.lease.max_ttl
    if not 0 <= request.ttl_s <= longest:  # this way round it refuses what is not a number too
        raise UsageError(f"ttl_s {request.ttl_s:g} is not within 1 and the pool's {longest:g}")
    if not request.wait_s >= 0:
        raise UsageError(f"wait_s {request.wait_s:g} is not 0 or more")
    if len(request.holder) > HOLDER_CHARACTERS:
        raise UsageError(f"holder is longer than {HOLDER_CHARACTERS} characters")
    if len(json.dumps(request.labels)) > LABEL_BYTES:
        raise UsageError(f"labels take more than {LABEL_BYTES} bytes")
    if len(request.reply_to) > WORKFLOW_ID_CHARACTERS:
        raise UsageError(f"reply_to is longer than {WORKFLOW_ID_CHARACTERS} characters")
    refuse_plain(request)
    sealed.check(request.sealed, request.host_secrets)


def refuse_plain(request: ClaimRequest) -> None:
    """Refuse a request that carried secrets in the clear. Raises UsageError."""
    if request.plain:
        raise UsageError(
            f"a claim over Temporal must not carry {', '.join(request.plain)}: what is in the "
            "clear would stand in its history. Seal each value (`greenroom seal POOL NAME`) and "
            "send it in `sealed`, name secrets of the host in `host_secrets`, or claim through "
            "the host's API"
        )


def request_hash(request: ClaimRequest) -> str:
    """What two requests under one id must agree on, hashed."""
    same = {"holder": request.holder, "ttl_s": request.ttl_s, "labels": request.labels}
    if request.sealed or request.host_secrets:
        same |= {"sealed": request.sealed, "host_secrets": request.host_secrets}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def claim(ledger: Ledger, request: ClaimRequest, now: float) -> ClaimReply:
    """Grant, queue or refuse; idempotent by ``claim_id``.

    Raises ConflictError (same id, other request), NotFoundError (the claim ended, or the pool
    is going away), ClaimTooOldError, NoContainerError (none now and the caller does not wait).
    """
    check_request(ledger, request)
    known = _known_answer(ledger, request, now)
    if known is not None:
        return known
    if ledger.suspended is EndReason.DELETED:
        raise NotFoundError(f"pool {ledger.pool} is being deleted")
    _check_room(ledger, request)
    slot = None if ledger.queue or ledger.suspended else choose(ledger)
    if slot is not None:
        if not request.corpse:
            ledger.counters.warm += 1
        lease = _grant(
            ledger,
            slot,
            Waiting(request=request, request_hash=request_hash(request), since=now, miss_reason=""),
            now,
        )
        return ClaimReply(outcome="granted", lease=lease)
    return _miss(ledger, request, now)


def claim_each(ledger: Ledger, batch: ClaimBatch, now: float) -> ClaimBatchReply:
    """Answer each claim by itself: one that is refused does not touch the others."""
    return ClaimBatchReply(answers=tuple(_answer(ledger, one, now) for one in batch.requests))


def _answer(ledger: Ledger, request: ClaimRequest, now: float) -> ClaimAnswer:
    try:
        return ClaimAnswer(reply=claim(ledger, request, now))
    except GreenroomError as error:
        refusal = Refusal(code=error.code, message=error.message, details=error.details)
        return ClaimAnswer(refusal=refusal)


def _check_room(ledger: Ledger, request: ClaimRequest) -> None:
    """The ledger is bounded, and sealed values stay in it as long as their claims."""
    if not request.sealed:
        return
    kept = [slot.brought.sealed for slot in ledger.slots.values() if slot.brought is not None]
    kept += [waiting.request.sealed for waiting in ledger.queue]
    size = sum(len(text) for values in (*kept, request.sealed) for text in values.values())
    if size > sealed.POOL_BYTES:
        bump(ledger.counters.refused, "quota")
        raise NoContainerError(
            f"the sealed values of pool {ledger.pool}'s claims take more than {sealed.POOL_BYTES} "
            "bytes together; use host secrets, or end other claims",
            miss_reason="quota",
        )


def claim_with_wait(ledger: Ledger, request: ClaimRequest, now: float) -> None:
    """A claim by Signal: the answer, whatever it is, becomes the result of its Wait.

    With ``reply_to`` there is no Wait: that workflow is told.
    """
    patient = request.model_copy(update={"wait_s": request.wait_s or SIGNAL_PATIENCE_S})
    try:
        reply = claim(ledger, patient, now)
    except GreenroomError as error:
        _start_wait(ledger, patient)
        verdict = WaitVerdict(detail=f"{error.code}: {error.message}", code=error.code)
        _tell_wait(ledger, request, verdict)
        return
    if reply.lease is not None:
        _start_wait(ledger, patient)
        _tell_wait(ledger, request, WaitVerdict(lease=reply.lease))


def choose(ledger: Ledger) -> Slot | None:
    """The ready container that a claim gets: fresh before stale, then the longest ready."""
    fresh = ledger.fresh_kind()
    ready = [s for s in ledger.slots.values() if s.state is State.READY and s.ending is None]
    return min(ready, key=lambda s: (s.kind != fresh, s.since, s.container), default=None)


def grant_waiting(ledger: Ledger, now: float) -> None:
    """Give ready containers to queued claims, first come, first served."""
    while ledger.queue:
        slot = choose(ledger)
        if slot is None:
            return
        waiting = ledger.queue.pop(0)
        ledger.counters.cold += 1
        lease = _grant(ledger, slot, waiting, now)
        _tell_wait(ledger, waiting.request, WaitVerdict(lease=lease))


def release(ledger: Ledger, request: ReleaseRequest, now: float) -> None:
    """End a lease by its token; the container workflow does the work and reports.

    Raises FencedError for another token, NotFoundError for an unknown claim. A second release
    of a lease that is ending already is success.
    """
    slot = ledger.slot_of(request.claim_id)
    if slot is None or slot.lease is None:
        if ledger.find_ended(request.claim_id) is not None:
            return
        raise NotFoundError(f"claim {request.claim_id} is not known to pool {ledger.pool}")
    if slot.lease.token != request.token:
        raise FencedError(f"token {request.token} is not that of claim {request.claim_id}")
    if slot.ending is None:
        slot.ending, slot.since = request.reason, now
        slot.sent_seq += 1
        told = request.model_copy(update={"seq": slot.sent_seq})
        _tell_container(ledger, slot, "release", told)


def cancel(ledger: Ledger, request: CancelClaim, now: float) -> None:
    """Take a claim out of the queue and tell its Wait; if it was granted, say so again."""
    for waiting in ledger.queue:
        if waiting.request.claim_id == request.claim_id:
            ledger.queue.remove(waiting)
            bump(ledger.counters.refused, str(request.reason))
            detail = f"{waiting.miss_reason} for {now - waiting.since:.0f} s"
            verdict = WaitVerdict(reason=request.reason, detail=detail)
            _tell_wait(ledger, waiting.request, verdict)
            return
    slot = ledger.slot_of(request.claim_id)
    verdict = WaitVerdict(lease=slot.lease) if slot else WaitVerdict(reason=request.reason)
    _tell_wait(ledger, request, verdict)


def regrant(ledger: Ledger, slot: Slot, now: float) -> None:
    """The claim's container was found dead before its holder could use it: find it another.

    The dead one is retired without a lease; the claim goes to the head of the queue under a new
    token and its Wait (started if need be) tells the holder.
    """
    lease = slot.lease
    if lease is None or slot.ending not in _NOT_BY_CHOICE:
        return  # released, for example: nobody wants another one
    if ledger.suspended is not None:
        ledger.remember_ended(lease.claim_id, slot.container, EndReason.DIED, now)
        tell_ended(ledger, slot, EndReason.DIED)
        retire_corpse(ledger, slot, now)
        return
    request = ClaimRequest(
        claim_id=lease.claim_id,
        holder=lease.holder,
        labels=lease.labels,
        ttl_s=max(1.0, lease.expires_at - lease.granted_at),
        wait_s=max(60.0, lease.expires_at - now),
        **(slot.brought.model_dump() if slot.brought else {}),
    )
    hashed = slot.request_hash
    retire_corpse(ledger, slot, now)
    waiting = Waiting(request=request, request_hash=hashed, since=now, miss_reason="host_lost")
    ledger.queue.insert(0, waiting)
    _start_wait(ledger, request)
    grant_waiting(ledger, now)


def tell_ended(ledger: Ledger, slot: Slot, reason: EndReason) -> None:
    """Word to a claim's ``reply_to`` where the container's own workflow cannot say it."""
    if slot.lease is None or slot.brought is None or not slot.brought.reply_to:
        return
    never = SavedWork(state="discarded", detail="the container's workflow is gone, or never knew")
    news = ReleaseReply(
        claim_id=slot.lease.claim_id, container=slot.container, reason=reason, saved=never
    )
    ledger.post("signal", slot.brought.reply_to, "ended", news)


def retire_corpse(ledger: Ledger, slot: Slot, now: float) -> None:
    """Take the lease off a dead container and have it cleaned up."""
    slot.lease = None
    slot.ending, slot.since = EndReason.DIED, now
    slot.sent_seq += 1
    _tell_container(ledger, slot, "retire", Retire(seq=slot.sent_seq, reason=EndReason.DIED))


def _known_answer(ledger: Ledger, request: ClaimRequest, now: float) -> ClaimReply | None:
    slot = ledger.slot_of(request.claim_id)
    if slot is not None and slot.lease is not None:
        _check_same(slot.request_hash, request)
        corpse = request.corpse == slot.container and request.corpse_token == slot.lease.token
        if corpse and slot.ending in _NOT_BY_CHOICE:
            retire_corpse(ledger, slot, now)
            return None
        if slot.ending is not None:
            raise NotFoundError(
                f"claim {request.claim_id} is ending: {slot.ending}", container=slot.container
            )
        return ClaimReply(outcome="granted", lease=slot.lease)
    for position, waiting in enumerate(ledger.queue):
        if waiting.request.claim_id == request.claim_id:
            _check_same(waiting.request_hash, request)
            return _queued(ledger, waiting, position)
    ended = ledger.find_ended(request.claim_id)
    if ended is not None:
        container, reason = ended
        if request.corpse == container and reason in _NOT_BY_CHOICE:
            return None  # it was gone before its holder heard of it: the same claim, another one
        raise NotFoundError(
            f"claim {request.claim_id} ended: {reason}", container=container, reason=str(reason)
        )
    if request.issued_at and request.issued_at < ledger.low_water:
        raise ClaimTooOldError(
            f"claim {request.claim_id} was issued before what pool {ledger.pool} remembers "
            "and is not among its live claims; use a new id"
        )
    return None


def _check_same(known: str, request: ClaimRequest) -> None:
    if known != request_hash(request):
        raise ConflictError(
            f"claim {request.claim_id} exists with another request: holder, ttl and labels "
            "must be the same under one id"
        )


def miss_reason(ledger: Ledger) -> MissReason:
    """Why no container is ready, for a claim that found none."""
    if ledger.suspended is not None:
        return "draining"
    if ledger.paused:
        return "paused"
    stopped = ledger.slot_streak.count >= STREAK_LIMIT or ledger.build_streak.count >= STREAK_LIMIT
    return "breaker_open" if stopped else "pool_empty"


def _miss(ledger: Ledger, request: ClaimRequest, now: float) -> ClaimReply:
    reason = miss_reason(ledger)
    bump(ledger.counters.misses, reason)
    if request.wait_s <= 0 or ledger.suspended or len(ledger.queue) >= QUEUE_DEPTH:
        bump(ledger.counters.refused, reason)
        raise NoContainerError(
            f"pool {ledger.pool} has no container ready ({reason})", miss_reason=reason
        )
    waiting = Waiting(
        request=request, request_hash=request_hash(request), since=now, miss_reason=reason
    )
    ledger.queue.append(waiting)
    _start_wait(ledger, request)
    return _queued(ledger, waiting, len(ledger.queue) - 1)


def _start_wait(ledger: Ledger, request: ClaimRequest) -> None:
    if request.reply_to:
        return  # that workflow waits
    ident = wait_workflow_id(ledger.pool, request.claim_id)
    light = request.model_copy(update={"sealed": {}, "host_secrets": ()})  # not a Wait's business
    ledger.post("start", ident, "Wait", WaitInput(pool=ledger.pool, request=light))


def place_in_queue(ledger: Ledger, claim_id: str) -> Queued | None:
    """Where a claim stands in the queue; None when it does not."""
    for position, waiting in enumerate(ledger.queue):
        if waiting.request.claim_id == claim_id:
            return _queued(ledger, waiting, position).queued
    return None


def _queued(ledger: Ledger, waiting: Waiting, position: int) -> ClaimReply:
    typical = sorted(ledger.timings)[len(ledger.timings) // 2] if ledger.timings else 30.0
    rounds = position // IN_FLIGHT + 1
    reason: MissReason = waiting.miss_reason  # type: ignore[assignment]
    return ClaimReply(
        outcome="queued",
        queued=Queued(
            position=position + 1,
            eta_s=round(typical * rounds, 1),
            wait_workflow=_waiting_workflow(ledger, waiting.request),
            miss_reason=reason,
        ),
    )


def _grant(ledger: Ledger, slot: Slot, waiting: Waiting, now: float) -> Lease:
    request = waiting.request
    slot.advance(Event.CLAIMED, now)
    slot.request_hash = waiting.request_hash
    built_at = ledger.serving.built_at if ledger.is_fresh(slot) and ledger.serving else None
    lease = Lease(
        claim_id=request.claim_id,
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
    )
    slot.lease = lease
    slot.sent_seq += 1
    # Only hooks wait for the API's part.
    light = request.model_copy(
        update={"brings": request.brings and bool(ledger.config.hooks.claim)}
    )
    slot.brought = light.brought()
    told = Claimed(seq=slot.sent_seq, lease=lease, brought=slot.brought)
    _tell_container(ledger, slot, "claimed", told)
    return lease


def _tell_container(
    ledger: Ledger, slot: Slot, name: str, message: Claimed | ReleaseRequest | Retire
) -> None:
    ident = container_workflow_id(ledger.pool, slot.container)
    ledger.post("signal", ident, name, message)


def _waiting_workflow(ledger: Ledger, claim: ClaimRequest | CancelClaim) -> str:
    return claim.reply_to or wait_workflow_id(ledger.pool, claim.claim_id)


def _tell_wait(ledger: Ledger, claim: ClaimRequest | CancelClaim, verdict: WaitVerdict) -> None:
    ledger.post("signal", _waiting_workflow(ledger, claim), "verdict", verdict)
