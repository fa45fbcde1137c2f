"""A claim that comes again: what its ledger says of it, live, waiting or ended."""

from __future__ import annotations

from greenroom.core import transfers
from greenroom.core.errors import ClaimTooOldError, ConflictError, NotFoundError
from greenroom.core.grants import queued, retire_corpse
from greenroom.core.ledger import Ledger, Slot, Waiting
from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import ClaimReply, ClaimRequest
from greenroom.core.names import member_id, member_of
from greenroom.core.requests import asked_by, check_same

NOT_BY_CHOICE = (None, EndReason.DIED, EndReason.LOST)
"""Ends of a container (None: not ending) that its claim's holder did not ask for."""


def entry(ledger: Ledger, request: ClaimRequest, now: float) -> Waiting:
    """A request as a claim of the queue; one for a ``member`` is for that member alone."""
    arrival = ledger.arrivals + 1
    if not request.member:
        return Waiting(request=request, since=now, arrival=arrival)
    alone = {"claim_id": member_id(request.claim_id, request.member), "count": 1, "partial": False}
    return Waiting(
        request=request.model_copy(update=alone),
        asked=asked_by(request),
        since=now,
        arrival=arrival,
        group=request.claim_id,
        group_size=request.count,
    )


def known_answer(
    ledger: Ledger, request: ClaimRequest, waiting: Waiting, now: float
) -> ClaimReply | None:
    """The answer to a claim that the ledger knows; None: grant or queue ``waiting``.

    When ``waiting`` replaces a dead container, its old lease is taken off and it goes to the head.
    Raises ConflictError, NotFoundError, ClaimTooOldError.
    """
    claim_id = waiting.request.claim_id
    slots = ledger.slots_of(claim_id)
    if slots:
        return _live_answer(ledger, request, waiting, slots, now)
    for other in ledger.queue:
        if other.request.claim_id == claim_id:
            _check_member(waiting, other.group)
            check_same(ledger, other, request)
            return queued(ledger, other, now)
        if other.group == claim_id:
            check_same(ledger, other, request)
            return ClaimReply(outcome="granted")  # all its members wait for another container
    _check_ended(ledger, request, waiting)
    return None


def _live_answer(
    ledger: Ledger, request: ClaimRequest, waiting: Waiting, slots: list[Slot], now: float
) -> ClaimReply | None:
    claim_id, slot = waiting.request.claim_id, slots[0]
    lease = slot.lease
    if lease is None or lease.claim_id != claim_id:
        check_same(ledger, slot, request)
        return _group_answer(claim_id, slots)
    transfers.check_not_transferred(slot, request)
    _check_member(waiting, lease.group)
    check_same(ledger, slot, request)
    corpse = request.corpse == slot.container and request.corpse_token == lease.token
    if corpse and slot.ending in NOT_BY_CHOICE:
        waiting.head, waiting.group_size = True, lease.group_size
        retire_corpse(ledger, slot, now)
        return None
    if slot.ending is not None:
        raise NotFoundError(f"claim {claim_id} is ending: {slot.ending}", container=slot.container)
    return ClaimReply(outcome="granted", lease=lease)


def _group_answer(claim_id: str, slots: list[Slot]) -> ClaimReply:
    live = [slot.lease for slot in slots if slot.lease is not None and slot.ending is None]
    if not live:
        raise NotFoundError(f"claim {claim_id} is ending: {slots[0].ending}")
    by_number = sorted(live, key=lambda lease: member_of(lease.claim_id)[1])
    return ClaimReply(outcome="granted", leases=tuple(by_number))


def _check_member(waiting: Waiting, group: str) -> None:
    """Only a group's own claim asks for its members. Raises ConflictError."""
    if waiting.group != group:
        claim_id = waiting.request.claim_id
        owner = group or waiting.group
        raise ConflictError(
            f"{claim_id} is a member of the group {owner}: use another id"
            if group
            else f"claim {claim_id} is not a member of a group {owner}"
        )


def _check_ended(ledger: Ledger, request: ClaimRequest, waiting: Waiting) -> None:
    claim_id = waiting.request.claim_id
    names = [claim_id]
    if waiting.request.count > 1:
        names += [member_id(claim_id, n) for n in range(1, waiting.request.count + 1)]
    for name in names:
        ended = ledger.find_ended(name)
        if ended is None:
            continue
        container, reason = ended
        if request.corpse and request.corpse == container and reason in NOT_BY_CHOICE:
            waiting.head = True  # it was gone before its holder heard of it
            return
        raise NotFoundError(
            f"claim {name} ended: {reason}", container=container, reason=str(reason)
        )
    if request.member and not request.corpse:
        raise NotFoundError(f"claim {claim_id} is not known to pool {ledger.pool}")
    if request.issued_at and request.issued_at < ledger.low_water:
        raise ClaimTooOldError(
            f"claim {claim_id} was issued before what pool {ledger.pool} remembers "
            "and is not among its live claims; use a new id"
        )
