"""Claim requests: what one may bring, and whether two under one id are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping

from greenroom.core import sealed
from greenroom.core.brought import Brought
from greenroom.core.config import LEAST_HEARTBEAT_S
from greenroom.core.errors import ConflictError, UsageError
from greenroom.core.ledger import Asked, Ledger, Slot, Waiting
from greenroom.core.messages import ClaimRequest
from greenroom.core.names import (
    WORKFLOW_ID_BYTES,
    check_claim_id,
    check_holder,
    member_id,
    member_of,
)

PLAIN_BYTES = 200
CARGO_BYTES = 384 * 1024
"""What all claims may carry together; one with at most PLAIN_BYTES is always taken."""
PRIORITIES = 100
LABEL_BYTES = 1024
"""What a claim may carry into the ledger, whose size is bounded."""
LONGEST_WAIT_S = 30 * 86400.0
"""A Wait is a timer, and no timer can be arbitrarily long."""
_TEXT = 80
"""Characters of a value that an error shows."""


def check_form(request: ClaimRequest) -> None:
    """Refuse what no pool can take, whatever its state. Raises UsageError, SecretError."""
    check_claim_id(request.claim_id)
    if not request.ttl_s >= 0:  # this way round it refuses what is not a number too
        raise UsageError(f"ttl_s {request.ttl_s:g} is not 0 or more")
    if not 0 <= request.wait_s <= LONGEST_WAIT_S:
        raise UsageError(f"wait_s {request.wait_s:g} is not within 0 and {LONGEST_WAIT_S:g}")
    if abs(request.priority) > PRIORITIES:
        raise UsageError(
            f"priority {request.priority} is not within -{PRIORITIES} and {PRIORITIES}"
        )
    if request.heartbeat_s != 0 and not request.heartbeat_s >= LEAST_HEARTBEAT_S:
        raise UsageError(
            f"heartbeat_s {request.heartbeat_s:g} is neither 0 nor at least {LEAST_HEARTBEAT_S:g}"
        )
    check_holder(request.holder)
    if len(json.dumps(request.labels)) > LABEL_BYTES:
        raise UsageError(f"labels take more than {LABEL_BYTES} bytes")
    check_brought(request)


def check_brought(request: ClaimRequest) -> None:
    """Refuse what a claim must not bring. Raises UsageError, SecretError."""
    if len(request.reply_to.encode()) > WORKFLOW_ID_BYTES:
        raise UsageError(f"reply_to is longer than {WORKFLOW_ID_BYTES} bytes")
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


def asked_by(request: ClaimRequest) -> Asked:
    """What is remembered of a request besides holder, labels and what it brings."""
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
            "sealed differs"  # nobody can compare those by eye
            if name == "sealed"
            else f"{name} is {_short(before[name])} there and {_short(now[name])} here"
            for name in differing
        )
        raise ConflictError(
            f"claim {request.claim_id} exists in pool {ledger.pool} with another request: {told}",
            differs=",".join(differing),
        )


def _compared(known: Slot | Waiting) -> Mapping[str, object]:
    if isinstance(known, Waiting):
        request = known.request
        asked = known.asked or asked_by(request)
        return {
            "holder": request.holder,
            "labels": request.labels,
            **dict(asked),
            **_secrets(request),
        }
    lease = known.lease
    if lease is None:
        return {}
    # A slot of an earlier version does not say the rest.
    said = dict(known.asked) if known.asked is not None else {}
    brought = known.brought or Brought()
    return {"holder": lease.holder, "labels": lease.labels, **said, **_secrets(brought)}


def _asked(request: ClaimRequest) -> Mapping[str, object]:
    asked = dict(asked_by(request))
    return {"holder": request.holder, "labels": request.labels, **asked, **_secrets(request)}


def _secrets(brought: ClaimRequest | Brought) -> Mapping[str, object]:
    return {"sealed": brought.sealed, "host_secrets": brought.host_secrets}


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
    own = _cargo_of(request)
    if own <= PLAIN_BYTES:
        return
    carried = sum(
        _cargo(slot.lease.holder, slot.lease.labels, slot.brought)
        for slot in ledger.slots.values()
        if slot.lease is not None
    )
    carried += sum(_cargo_of(waiting.request) for waiting in ledger.queue)
    if carried + own > CARGO_BYTES:
        raise UsageError(
            f"the claims of pool {ledger.pool} carry {carried} bytes of holders, labels and sealed "
            f"values and may carry {CARGO_BYTES}; this one has {own}: shorten its labels, or name "
            "secrets of the host in the place of sealed values"
        )


def _cargo_of(request: ClaimRequest) -> int:
    """What all members of a request carry, each for itself."""
    return _cargo(request.holder, request.labels, request.brought()) * request.count


def _cargo(holder: str, labels: dict[str, str], brought: Brought | None) -> int:
    told = len(json.dumps(labels)) if labels else 0
    if brought is not None:
        told += len(brought.model_dump_json(exclude_defaults=True))
    return len(holder.encode()) + told
