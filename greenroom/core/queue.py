"""Whose turn it is: the order of waiting claims, what the first of them gets, and when.

The order: a claim whose container died before its use; then higher priority; then the holder with
fewer live leases; then first come. So that nobody waits for ever, a holder's foremost claim that
PASSES later ones of its priority have passed goes before them. A group takes nothing until all of
it can be had, and what comes behind it waits with it. What a holder's quota holds back is skipped
and is in nobody's way but its holder's own.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from greenroom.core.ledger import Ledger, Slot, Waiting
from greenroom.core.lifecycle import PREPARING, State
from greenroom.core.plan import IN_FLIGHT
from greenroom.core.pool_messages import WaitingView

PASSES = 20
"""Grants to later claims of its priority after which a holder's foremost claim goes first."""
PREPARATION_S = 30.0
"""What preparing a container is taken to last before one has been."""
OVERDUE = 0.1
"""The part of a typical preparation that one which lasts longer is taken to need still."""


@dataclass(frozen=True)
class Turn:
    """The claim that is next, and how many containers it gets."""

    waiting: Waiting
    count: int


def live_leases(ledger: Ledger) -> Counter[str]:
    """Live leases by holder; those that are ending are not live. ``""`` is one holder."""
    return Counter(
        slot.lease.holder
        for slot in ledger.slots.values()
        if slot.lease is not None and slot.ending is None
    )


def ready_slots(ledger: Ledger) -> list[Slot]:
    """Containers that can be granted now."""
    return [s for s in ledger.slots.values() if s.state is State.READY and s.ending is None]


def ordered(queue: Iterable[Waiting], live: Mapping[str, int]) -> list[Waiting]:
    """The queue in the order in which it is served (see the module)."""
    turns = Counter(live)
    keyed: list[tuple[tuple[bool, int], tuple[int, int], int, int, Waiting]] = []
    for waiting in sorted(queue, key=lambda w: (*_rank(w), w.arrival)):
        holder, due = waiting.request.holder, waiting.passed >= PASSES
        fair = (0, 0) if due or waiting.head else (1, turns[holder])
        keyed.append((_rank(waiting), fair, waiting.arrival, len(keyed), waiting))
        turns[holder] += waiting.request.count
    return [item[-1] for item in sorted(keyed, key=lambda item: item[:-1])]


def _rank(waiting: Waiting) -> tuple[bool, int]:
    return (not waiting.head, 0 if waiting.head else -waiting.request.priority)


def next_turn(ledger: Ledger, newcomer: Waiting | None = None) -> Turn | None:
    """Who gets containers now, ``newcomer`` among those that wait; None: nobody."""
    ready = len(ready_slots(ledger))
    if not ready or ledger.suspended is not None:
        return None
    for waiting, room in _candidates(ledger, newcomer):
        count = waiting.request.count
        if waiting.request.partial:
            return Turn(waiting, min(count, ready, room))
        return Turn(waiting, count) if count <= ready else None
    return None


def _candidates(ledger: Ledger, newcomer: Waiting | None = None) -> list[tuple[Waiting, int]]:
    """Claims that no quota holds back, in order, each with its holder's room under the quota."""
    live = live_leases(ledger)
    queue = ordered([*ledger.queue, *([newcomer] if newcomer else [])], live)
    return _within_quota(ledger, queue, live)


def _within_quota(
    ledger: Ledger, queue: list[Waiting], live: Counter[str]
) -> list[tuple[Waiting, int]]:
    """Those of an ordered queue that no quota holds back; ``live`` is used up."""
    bound = ledger.config.claims.per_holder
    if bound is None:
        return [(waiting, waiting.request.count) for waiting in queue]
    found: list[tuple[Waiting, int]] = []
    held_back: set[str] = set()
    for waiting in queue:
        holder = waiting.request.holder
        room = bound - live[holder]
        if holder not in held_back and room >= _least(waiting):
            found.append((waiting, room))
            live[holder] += waiting.request.count
        else:
            held_back.add(holder)
    return found


def _least(waiting: Waiting) -> int:
    return 1 if waiting.request.partial else waiting.request.count


def held_back(ledger: Ledger, newcomer: Waiting) -> bool:
    """Whether a quota leaves no room for a claim that comes now."""
    if ledger.config.claims.per_holder is None:
        return False
    return all(waiting is not newcomer for waiting, _ in _candidates(ledger, newcomer))


def count_passed(ledger: Ledger, granted: Waiting) -> None:
    """Note whom a grant has passed: each holder's foremost claim of its priority that came before.

    Claims behind another one of their own holder wait for that one, not for strangers.
    """
    if granted.head:
        return
    able = {id(waiting) for waiting, _ in _candidates(ledger)}
    seen: set[str] = {granted.request.holder}
    for waiting in sorted(ledger.queue, key=lambda w: w.arrival):
        same = not waiting.head and waiting.request.priority == granted.request.priority
        if not same or waiting.request.holder in seen or waiting.arrival > granted.arrival:
            continue
        seen.add(waiting.request.holder)
        if id(waiting) in able:
            waiting.passed += 1


def demand(ledger: Ledger) -> int:
    """Containers that the queue asks for; not what a quota holds back, which could not be given."""
    if not ledger.queue:
        return 0
    return sum(waiting.request.count for waiting, _ in _candidates(ledger))


def eta(ledger: Ledger, position: int, now: float) -> float:
    """Seconds until the ``position``-th container from now (from 1) can be granted, estimated.

    From what preparing lasted lately, the ages of the containers in preparation, and how many may
    be at once. It knows nothing of releases, and of a pool that is full, paused or failing.
    """
    return _etas(ledger, position, now)[-1]


def _etas(ledger: Ledger, number: int, now: float) -> list[float]:
    typical = typical_preparation(ledger.timings)
    begun = [
        slot.created_at
        for slot in ledger.slots.values()
        if slot.state in PREPARING and slot.ending is None
    ]
    lanes = [max(typical * OVERDUE, typical - (now - at)) for at in begun]
    found = [0.0] * len(ready_slots(ledger))
    idle = [0.0] * max(0, IN_FLIGHT - len(lanes))
    heapq.heapify(lanes)
    for free in idle:
        heapq.heappush(lanes, free + typical)
    while len(found) < number:
        ready_in = heapq.heappop(lanes)
        found.append(round(ready_in, 1))
        heapq.heappush(lanes, ready_in + typical)
    return found[:number]


def typical_preparation(timings: Sequence[float]) -> float:
    """The median of what preparing a container took, in seconds."""
    return sorted(timings)[len(timings) // 2] if timings else PREPARATION_S


def views(ledger: Ledger, now: float) -> list[WaitingView]:
    """The queue as people see it, in order."""
    places = _places(ledger)
    etas = _etas(ledger, places[-1].needed, now) if places else []
    return [_view(place, etas[place.needed - 1]) for place in places]


def view_of(ledger: Ledger, claim_id: str, now: float) -> WaitingView | None:
    """One claim of ``views``; None when it does not wait. Many come at once, so no more."""
    for place in _places(ledger):
        if place.waiting.request.claim_id == claim_id:
            return _view(place, eta(ledger, place.needed, now))
    return None


class _Place(NamedTuple):
    """``needed``: how many containers from now serve this claim too."""

    waiting: Waiting
    position: int
    needed: int
    able: bool


def _places(ledger: Ledger) -> list[_Place]:
    live = live_leases(ledger)
    queue = ordered(ledger.queue, live)
    able = {id(waiting) for waiting, _ in _within_quota(ledger, queue, live)}
    places, total = [], 0
    for position, waiting in enumerate(queue, 1):
        total += waiting.request.count if id(waiting) in able else 0
        places.append(_Place(waiting, position, max(1, total), id(waiting) in able))
    return places


def _view(place: _Place, eta_s: float) -> WaitingView:
    waiting = place.waiting
    return WaitingView(
        claim_id=waiting.request.claim_id,
        holder=waiting.request.holder,
        position=place.position,
        eta_s=eta_s,
        miss_reason=waiting.miss_reason if place.able else "quota",
        since=waiting.since,
        priority=waiting.request.priority,
        count=waiting.request.count,
    )
