"""Claim requests: whether two under one id are the same, and the ids of a group's members."""

from __future__ import annotations

import json
from collections.abc import Mapping

from greenroom.core.errors import ConflictError, UsageError
from greenroom.core.ledger import Asked, Ledger, Slot, Waiting
from greenroom.core.messages import ClaimRequest
from greenroom.core.names import check_claim_id, member_id, member_of

PLAIN_BYTES = 200
CARGO_BYTES = 384 * 1024
"""What all claims may carry together; one with at most PLAIN_BYTES is always taken."""
_TEXT = 80
"""Characters of a value that an error shows."""


def asked_by(request: ClaimRequest) -> Asked:
    """What is remembered of a request besides holder and labels."""
    return Asked(
        ttl_s=request.ttl_s,
        heartbeat_s=request.heartbeat_s,
        priority=request.priority,
        count=request.count,
        partial=request.partial,
    )


def check_same(ledger: Ledger, known: Slot | Waiting, request: ClaimRequest) -> None:
    """Refuse another request under a known id. Raises ConflictError that names each difference."""
    before, now = _compared(known), _asked(request)
    differing = [name for name in before if before[name] != now[name]]
    if differing:
        told = "; ".join(
            f"{name} is {_short(before[name])} there and {_short(now[name])} here"
            for name in differing
        )
        raise ConflictError(
            f"claim {request.claim_id} exists in pool {ledger.pool} with another request: {told}",
            differs=",".join(differing),
        )


def _compared(known: Slot | Waiting) -> Mapping[str, object]:
    if isinstance(known, Waiting):
        asked = known.asked or asked_by(known.request)
        return {"holder": known.request.holder, "labels": known.request.labels, **dict(asked)}
    lease = known.lease
    if lease is None:
        return {}
    # A slot of an earlier version does not say the rest.
    said = dict(known.asked) if known.asked is not None else {}
    return {"holder": lease.holder, "labels": lease.labels, **said}


def _asked(request: ClaimRequest) -> Mapping[str, object]:
    return {"holder": request.holder, "labels": request.labels, **dict(asked_by(request))}


def _short(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}…"


def check_free(ledger: Ledger, request: ClaimRequest) -> None:
    """Refuse a new claim one of whose ids belongs to another claim. Raises ConflictError."""
    group, number = member_of(request.claim_id)
    if request.count == 1 and not group:
        return
    wanted = {request.claim_id}
    if request.count > 1:
        wanted |= {member_id(request.claim_id, n) for n in range(1, request.count + 1)}
    for taken, count in _claims(ledger):
        if taken in wanted:
            raise ConflictError(
                f"claim {taken} lives in pool {ledger.pool}, and {taken} would be a member of "
                f"the group {request.claim_id} too: use another id"
            )
        if taken == group and number <= count:
            raise ConflictError(
                f"{request.claim_id} is a member of the group {group} of pool {ledger.pool}: "
                "use another id"
            )


def _claims(ledger: Ledger) -> set[tuple[str, int]]:
    """Id and count of every live or queued claim; a group's members are told by the group."""
    found = set()
    for slot in ledger.slots.values():
        if slot.lease is not None:
            count = slot.asked.count if slot.asked is not None else 1
            found.add((slot.lease.group or slot.lease.claim_id, count))
    for waiting in ledger.queue:
        asked = waiting.asked or asked_by(waiting.request)
        found.add((waiting.group or waiting.request.claim_id, asked.count))
    return found


def check_count(ledger: Ledger, request: ClaimRequest) -> None:
    """Refuse a group that cannot be. Raises UsageError."""
    if request.count < 1:
        raise UsageError(f"count {request.count} is less than 1")
    if request.count == 1 and not request.member:
        return
    check_claim_id(member_id(request.claim_id, request.count))
    if not 0 <= request.member <= request.count:
        raise UsageError(f"member {request.member} is not within 1 and {request.count}")
    if not ledger.slots_of(request.claim_id):  # one that was granted may be asked for again
        why = impossible(ledger, request)
        if why:
            raise UsageError(why)


def impossible(ledger: Ledger, request: ClaimRequest) -> str:
    """Why this pool can never give so many containers at once; empty when it can."""
    most, quota = ledger.config.size.max, ledger.config.claims.per_holder
    if request.count > most:
        return f"count {request.count} is more than pool {ledger.pool} has: size.max is {most}"
    if quota is not None and request.count > quota:
        return (
            f"count {request.count} is more than one holder may have in pool {ledger.pool}: "
            f"claims.per_holder is {quota}"
        )
    return ""


def check_cargo(ledger: Ledger, request: ClaimRequest) -> None:
    """Keep the ledger within its budget whatever claims carry. Raises UsageError."""
    own = _cargo(request.holder, request.labels) * request.count
    if own <= PLAIN_BYTES:
        return
    live = [slot.lease for slot in ledger.slots.values() if slot.lease is not None]
    queued = [waiting.request for waiting in ledger.queue]
    carried = sum(_cargo(lease.holder, lease.labels) for lease in live)
    carried += sum(_cargo(one.holder, one.labels) * one.count for one in queued)
    if carried + own > CARGO_BYTES:
        raise UsageError(
            f"the claims of pool {ledger.pool} carry {carried} bytes of holders and labels and "
            f"may carry {CARGO_BYTES}; this one has {own}: shorten its labels"
        )


def _cargo(holder: str, labels: dict[str, str]) -> int:
    return len(holder.encode()) + len(json.dumps(labels)) if labels else len(holder.encode())
