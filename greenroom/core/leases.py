"""Who gets which container: claiming, queueing, releasing, over the ledger and nothing else.

Each function changes the ledger and posts what must be told to its outbox in one step, so that
choosing and marking a container cannot be torn apart.
"""

from __future__ import annotations

from greenroom.core.errors import (
    FencedError,
    GreenroomError,
    NoContainerError,
    NotFoundError,
    UsageError,
)
from greenroom.core.grants import (
    check_receiver,
    choose,
    grant,
    queued,
    retire_corpse,
    start_wait,
    tell_container,
    tell_ended,
    tell_wait,
)
from greenroom.core.known import NOT_BY_CHOICE, entry, known_answer
from greenroom.core.ledger import Ledger, Slot, Waiting, bump
from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import (
    CancelClaim,
    ClaimAnswer,
    ClaimBatch,
    ClaimBatchReply,
    ClaimReply,
    ClaimRequest,
    Queued,
    Refusal,
    ReleaseRequest,
    WaitVerdict,
)
from greenroom.core.plan import STREAK_LIMIT
from greenroom.core.queue import count_passed, held_back, live_leases, next_turn, ready_slots
from greenroom.core.records import MissReason
from greenroom.core.requests import check_cargo, check_count, check_form, check_free, impossible

__all__ = [
    "cancel",
    "check_request",
    "choose",
    "claim",
    "claim_each",
    "claim_with_wait",
    "grant_waiting",
    "place_in_queue",
    "regrant",
    "release",
    "retire_corpse",
]

SIGNAL_PATIENCE_S = 3600.0
"""How long a claim by Signal waits when it does not say."""


def check_request(ledger: Ledger, request: ClaimRequest) -> None:
    """Refuse a malformed request; raises UsageError and changes nothing (no event is written)."""
    check_form(request)
    longest = ledger.config.lease.max_ttl
    if request.ttl_s > longest:
        raise UsageError(f"ttl_s {request.ttl_s:g} is not within 1 and the pool's {longest:g}")
    check_count(ledger, request)


def claim(ledger: Ledger, request: ClaimRequest, now: float) -> ClaimReply:
    """Grant, queue or refuse; idempotent by ``claim_id``.

    Raises ConflictError (same id, other request), NotFoundError (the claim ended, or the pool
    is going away), ClaimTooOldError, NoContainerError (none now and the caller does not wait).
    """
    check_request(ledger, request)
    waiting = entry(ledger, request, now)
    known = known_answer(ledger, request, waiting, now)
    if known is not None:
        return known
    if ledger.suspended is EndReason.DELETED:
        raise NotFoundError(f"pool {ledger.pool} is being deleted")
    if not waiting.head and not waiting.group:
        check_free(ledger, request)
        check_cargo(ledger, request)
    turn = next_turn(ledger, waiting)
    if turn is None or turn.waiting is not waiting:
        return _miss(ledger, waiting, now)
    if not waiting.head:
        ledger.counters.warm += turn.count
    granted = grant(ledger, waiting, turn.count, now)
    count_passed(ledger, waiting)
    if waiting.request.count == 1:
        return ClaimReply(outcome="granted", lease=granted[0])
    return ClaimReply(outcome="granted", leases=granted)


def claim_each(ledger: Ledger, batch: ClaimBatch, now: float) -> ClaimBatchReply:
    """Answer each claim by itself: one that is refused does not touch the others."""
    return ClaimBatchReply(answers=tuple(_answer(ledger, one, now) for one in batch.requests))


def _answer(ledger: Ledger, request: ClaimRequest, now: float) -> ClaimAnswer:
    try:
        return ClaimAnswer(reply=claim(ledger, request, now))
    except GreenroomError as error:
        refusal = Refusal(code=error.code, message=error.message, details=error.details)
        return ClaimAnswer(refusal=refusal)


def claim_with_wait(ledger: Ledger, request: ClaimRequest, now: float) -> None:
    """A claim by Signal: the answer, whatever it is, becomes the result of its Wait.

    With ``reply_to`` there is no Wait: that workflow is told. Raises the refusal where nobody can
    be told: no workflow can have such an id, or it is that of another request's Wait.
    """
    check_receiver(ledger, request)
    patient = request.model_copy(update={"wait_s": request.wait_s or SIGNAL_PATIENCE_S})
    try:
        reply = claim(ledger, patient, now)
    except GreenroomError as error:
        if not request.reply_to and place_in_queue(ledger, request.claim_id, now) is not None:
            raise  # the refusal would end the Wait of the claim that waits under this id
        # Of a refused request nothing but its name is sure to be within bounds.
        bare = ClaimRequest(
            claim_id=request.claim_id, reply_to=request.reply_to, wait_s=SIGNAL_PATIENCE_S
        )
        start_wait(ledger, bare)
        refused = WaitVerdict(detail=f"{error.code}: {error.message}", code=error.code)
        tell_wait(ledger, request, refused)
        return
    if reply.outcome == "granted":
        start_wait(ledger, patient)
        verdict = WaitVerdict(lease=reply.lease, leases=reply.leases)
        tell_wait(ledger, request, verdict)


def grant_waiting(ledger: Ledger, now: float) -> None:
    """Give ready containers to queued claims in their order (``core.queue``).

    A group that has become impossible is told so: it would be in the way of all others.
    """
    for waiting in [w for w in ledger.queue if w.request.count > 1]:
        why = impossible(ledger, waiting.request)
        if why:
            _unqueue(ledger, waiting)
            bump(ledger.counters.refused, "cancelled", waiting.request.count)
            refused = WaitVerdict(detail=f"usage: {why}", code=UsageError.code)
            tell_wait(ledger, waiting.request, refused)
    while ledger.queue:
        turn = next_turn(ledger)
        if turn is None:
            return
        waiting = turn.waiting
        _unqueue(ledger, waiting)
        ledger.counters.cold += turn.count
        granted = grant(ledger, waiting, turn.count, now)
        count_passed(ledger, waiting)
        verdict = (
            WaitVerdict(lease=granted[0])
            if waiting.request.count == 1
            else WaitVerdict(leases=granted)
        )
        tell_wait(ledger, waiting.request, verdict)


def _unqueue(ledger: Ledger, waiting: Waiting) -> None:
    ledger.queue = [other for other in ledger.queue if other is not waiting]


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
        tell_container(ledger, slot, "release", told)


def cancel(ledger: Ledger, request: CancelClaim, now: float) -> None:
    """Take a claim out of the queue and tell its Wait; if it was granted, say so again.

    Raises UsageError for a claim that no workflow could stand for.
    """
    check_receiver(ledger, request)
    for waiting in ledger.queue:
        if waiting.request.claim_id == request.claim_id:
            _unqueue(ledger, waiting)
            bump(ledger.counters.refused, str(request.reason), waiting.request.count)
            detail = f"{waiting.miss_reason} for {now - waiting.since:.0f} s"
            verdict = WaitVerdict(reason=request.reason, detail=detail)
            tell_wait(ledger, waiting.request, verdict)
            return
    slots = ledger.slots_of(request.claim_id)
    held = [slot.lease for slot in slots if slot.lease is not None]
    if slots and slots[0].brought is not None and not request.reply_to:
        request = request.model_copy(update={"reply_to": slots[0].brought.reply_to})
    if not held:
        verdict = WaitVerdict(reason=request.reason)
    elif held[0].claim_id == request.claim_id:
        verdict = WaitVerdict(lease=held[0])
    else:
        verdict = WaitVerdict(leases=tuple(held))
    tell_wait(ledger, request, verdict)


def regrant(ledger: Ledger, slot: Slot, now: float) -> None:
    """The claim's container was found dead before its holder could use it: find it another.

    The dead one is retired without a lease; the claim (of a group: that member alone) goes to the
    head of the queue under a new token and its Wait (started if need be) tells the holder.
    """
    lease = slot.lease
    if lease is None or slot.ending not in NOT_BY_CHOICE:
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
        heartbeat_s=lease.heartbeat_s,
        priority=slot.asked.priority if slot.asked else 0,
        **(slot.brought.model_dump() if slot.brought else {}),
    )
    ledger.arrivals += 1
    waiting = Waiting(
        request=request,
        asked=slot.asked,
        since=now,
        miss_reason="host_lost",
        arrival=ledger.arrivals,
        head=True,
        group=lease.group,
        group_size=lease.group_size,
    )
    retire_corpse(ledger, slot, now)
    ledger.queue.append(waiting)
    start_wait(ledger, request)
    grant_waiting(ledger, now)


def miss_reason(ledger: Ledger, waiting: Waiting) -> MissReason:
    """Why a claim gets no container now."""
    if ledger.suspended is not None:
        return "draining"
    if held_back(ledger, waiting):
        return "quota"
    if waiting.head:
        return "host_lost"
    if ledger.paused:
        return "paused"
    stopped = ledger.slot_streak.count >= STREAK_LIMIT or ledger.build_streak.count >= STREAK_LIMIT
    return "breaker_open" if stopped else "pool_empty"


def place_in_queue(ledger: Ledger, claim_id: str, now: float) -> Queued | None:
    """Where a claim stands in the queue; None when it does not."""
    for waiting in ledger.queue:
        if waiting.request.claim_id == claim_id:
            return queued(ledger, waiting, now).queued
    return None


def _miss(ledger: Ledger, waiting: Waiting, now: float) -> ClaimReply:
    request = waiting.request
    reason = miss_reason(ledger, waiting)
    bump(ledger.counters.misses, reason, request.count)
    full = not waiting.head and len(ledger.queue) >= ledger.config.claims.queue
    if request.wait_s <= 0 or ledger.suspended or full:
        bump(ledger.counters.refused, reason, request.count)
        raise NoContainerError(_why_none(ledger, waiting, reason, full=full), miss_reason=reason)
    waiting.miss_reason = reason
    ledger.arrivals = waiting.arrival
    ledger.queue.append(waiting)
    start_wait(ledger, request)
    return queued(ledger, waiting, now)


def _why_none(ledger: Ledger, waiting: Waiting, reason: MissReason, *, full: bool) -> str:
    request, pool = waiting.request, ledger.pool
    if full and request.wait_s > 0 and not ledger.suspended:
        return f"the queue of pool {pool} is full: claims.queue is {ledger.config.claims.queue}"
    if reason == "quota":
        held = live_leases(ledger)[request.holder]
        who = f"holder {request.holder}" if request.holder else "the holder without a name"
        bound = ledger.config.claims.per_holder
        return f"{who} has {held} live claims in pool {pool}: claims.per_holder is {bound} (quota)"
    if request.count > 1:
        ready = len(ready_slots(ledger))
        return f"pool {pool} has {ready} of {request.count} containers ready ({reason})"
    return f"pool {pool} has no container ready ({reason})"
