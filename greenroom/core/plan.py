"""Facts in, actions out: what a keeper should do now, and when to ask again.

``decide`` is pure. Its rules, in order:

1. Claimed containers are untouchable.
2. Ask about leases and ends past their time and a silent build; retire stuck preparations.
3. A suspended pool (``down``, ``delete``) retires everything unclaimed and does nothing more.
4. Look at the repository when told to; build the missing snapshot once.
5. Hold off in a failure streak; stop after STREAK_LIMIT until told to go on.
6. Provision what is missing, bounded by surge, ``max`` and what may be in flight.
7. Retire stale containers only one for one with fresh ready ones.
8. Retire surplus, oldest first.

A container that is ending counts as capacity until it is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from greenroom.core.lifecycle import PREPARING, EndReason, State

STREAK_LIMIT = 5
"""Failures in a row after which a pool stops trying until told to go on."""
BACKOFF_FIRST_S = 5.0
BACKOFF_MAX_S = 300.0
ASK_AFTER_S = 20.0
"""Patience with a lease past its time before the container is asked, and between two asks."""
IN_FLIGHT = 4
"""Containers that may be in preparation at once."""


@dataclass(frozen=True)
class SlotFacts:
    """One container. ``deadline`` is when its present stage is overdue (None: never)."""

    container: str
    state: State
    since: float
    fresh: bool
    ending: bool
    deadline: float | None
    asked_at: float = 0.0


@dataclass(frozen=True)
class StreakFacts:
    """Failures in a row; ``retry_at`` None with a count at the limit means: stopped."""

    count: int = 0
    retry_at: float | None = None


@dataclass(frozen=True)
class PoolSnapshot:
    """The frozen facts about a pool that a decision rests on."""

    minimum: int
    maximum: int
    paused: bool
    suspended: EndReason | None
    queue: int
    look: bool
    looking: bool
    wanted: str | None
    serving: str | None
    building: str | None
    build_deadline: float | None
    build_streak: StreakFacts
    slot_streak: StreakFacts
    slots: tuple[SlotFacts, ...]
    build_asked_at: float = 0.0


@dataclass(frozen=True)
class PoolCounts:
    """Named counts of a pool; ``ready`` counts fresh and stale ones."""

    preparing: int
    ready: int
    fresh_ready: int
    stale_ready: int
    fresh_preparing: int
    claimed: int
    ending: int
    live: int


@dataclass(frozen=True)
class Look:
    """Resolve the pool's ref and work out the snapshot that it needs."""


@dataclass(frozen=True)
class BuildSnapshot:
    """Start building the wanted snapshot."""

    fingerprint: str


@dataclass(frozen=True)
class Provision:
    """Start ``count`` containers from the serving snapshot."""

    count: int


@dataclass(frozen=True)
class RetireContainer:
    container: str
    reason: EndReason


@dataclass(frozen=True)
class AskContainer:
    """Signal a container that is overdue; a missing workflow shows itself by that."""

    container: str


@dataclass(frozen=True)
class AskBuild:
    """Signal the snapshot build that is overdue."""


Action = Look | BuildSnapshot | Provision | RetireContainer | AskContainer | AskBuild


@dataclass(frozen=True)
class Plan:
    """``wake_at``: the earliest time at which the answer could change by itself."""

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None


@dataclass
class _Draft:
    actions: list[Action] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)


def counts(snapshot: PoolSnapshot) -> PoolCounts:
    """The named counts of the facts; ending containers are only in ``ending`` and ``live``."""
    here = [slot for slot in snapshot.slots if not slot.ending]
    ready = [slot for slot in here if slot.state is State.READY]
    preparing = [slot for slot in here if slot.state in PREPARING]
    return PoolCounts(
        preparing=len(preparing),
        ready=len(ready),
        fresh_ready=sum(slot.fresh for slot in ready),
        stale_ready=sum(not slot.fresh for slot in ready),
        fresh_preparing=sum(slot.fresh for slot in preparing),
        claimed=sum(slot.state is State.CLAIMED for slot in here),
        ending=len(snapshot.slots) - len(here),
        live=len(snapshot.slots),
    )


def target(minimum: int, maximum: int, queue: int) -> int:
    """Ready containers wanted: the minimum, plus one for each waiting claim."""
    return min(maximum, minimum + queue)


def surge(wanted: int) -> int:
    """Unclaimed containers allowed above the target while fresh ones replace stale ones."""
    return max(1, -(-wanted // 4))


def backoff(streak: int) -> float | None:
    """Seconds before try number ``streak + 1``; None when the streak is at its limit.

    Exponential: 5, 10, 20, 40 s, bounded by BACKOFF_MAX_S.
    """
    if streak >= STREAK_LIMIT:
        return None
    return min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** max(0, streak - 1))


def decide(snapshot: PoolSnapshot, now: float) -> Plan:
    """The actions that the facts call for at ``now`` (epoch seconds), by the module's rules."""
    draft = _Draft()
    _ask_overdue(snapshot, now, draft)
    if snapshot.suspended is not None:
        _retire(_unclaimed(snapshot), snapshot.suspended, draft)
        return _finish(draft, now)
    if not snapshot.paused:
        _look_and_build(snapshot, now, draft)
        _provision(snapshot, now, draft)
    _retire_stale_and_surplus(snapshot, draft)
    return _finish(draft, now)


def _finish(draft: _Draft, now: float) -> Plan:
    later = [wake for wake in draft.wakes if wake > now]
    return Plan(tuple(draft.actions), min(later, default=None))


def _ask_overdue(snapshot: PoolSnapshot, now: float, draft: _Draft) -> None:
    for slot in snapshot.slots:
        if slot.deadline is None:
            continue
        if slot.state in PREPARING and not slot.ending:
            if now >= slot.deadline:
                draft.actions.append(RetireContainer(slot.container, EndReason.STUCK))
            draft.wakes.append(slot.deadline)
            continue
        due = max(slot.deadline, slot.asked_at) + ASK_AFTER_S
        if now >= due:
            draft.actions.append(AskContainer(slot.container))
            due = now + ASK_AFTER_S
        draft.wakes.append(due)
    if snapshot.building is not None and snapshot.build_deadline is not None:
        due = max(snapshot.build_deadline, snapshot.build_asked_at) + ASK_AFTER_S
        if now >= due:
            draft.actions.append(AskBuild())
            due = now + ASK_AFTER_S
        draft.wakes.append(due)


def _look_and_build(snapshot: PoolSnapshot, now: float, draft: _Draft) -> None:
    if not _may_try(snapshot.build_streak, now, draft):
        return
    if snapshot.look and not snapshot.looking:
        draft.actions.append(Look())
        return
    if snapshot.looking or snapshot.building is not None or snapshot.wanted is None:
        return
    if snapshot.wanted != snapshot.serving:
        draft.actions.append(BuildSnapshot(snapshot.wanted))


def _provision(snapshot: PoolSnapshot, now: float, draft: _Draft) -> None:
    if snapshot.serving is None:
        return
    have = counts(snapshot)
    wanted = target(snapshot.minimum, snapshot.maximum, snapshot.queue)
    missing = wanted - have.fresh_ready - have.fresh_preparing
    if missing <= 0 or not _may_try(snapshot.slot_streak, now, draft):
        return
    unclaimed = have.ready + have.preparing
    # Stale ready containers still serve, so replacing them happens inside the surge; what is
    # missing altogether does not have to wait for it.
    room_for_surge = wanted + surge(wanted) - unclaimed
    room_below_max = snapshot.maximum - have.live
    if have.stale_ready:
        room_below_max += surge(wanted)
    in_flight = IN_FLIGHT - have.preparing
    if snapshot.slot_streak.count:
        in_flight = 1 - have.preparing  # after a failure, one probe at a time
    count = min(missing, room_for_surge, room_below_max, in_flight)
    if count > 0:
        draft.actions.append(Provision(count))


def _retire_stale_and_surplus(snapshot: PoolSnapshot, draft: _Draft) -> None:
    have = counts(snapshot)
    # What claims leave below max bounds the ready ones too: after a resize, or when a claim took
    # the fresh container that was to replace a stale one.
    room = max(0, snapshot.maximum - have.claimed)
    wanted = min(target(snapshot.minimum, snapshot.maximum, snapshot.queue), room)
    ready = [s for s in snapshot.slots if not s.ending and s.state is State.READY]
    stale = sorted((s for s in ready if not s.fresh), key=lambda s: (s.since, s.container))
    fresh = sorted((s for s in ready if s.fresh), key=lambda s: (s.since, s.container))
    doomed = [s for s in snapshot.slots if not s.ending and s.state in PREPARING and not s.fresh]
    if snapshot.serving is not None:
        _retire(doomed, EndReason.STALE, draft)
    excess = max(0, have.ready - wanted)
    _retire(stale[:excess], EndReason.STALE, draft)
    surplus = max(0, have.fresh_ready + have.fresh_preparing - wanted)
    _retire(fresh[: min(surplus, max(0, excess - len(stale)))], EndReason.SURPLUS, draft)


def _unclaimed(snapshot: PoolSnapshot) -> list[SlotFacts]:
    return [s for s in snapshot.slots if not s.ending and s.state is not State.CLAIMED]


def _retire(slots: Iterable[SlotFacts], reason: EndReason, draft: _Draft) -> None:
    gone = {action.container for action in draft.actions if isinstance(action, RetireContainer)}
    draft.actions += [
        RetireContainer(slot.container, reason) for slot in slots if slot.container not in gone
    ]


def _may_try(streak: StreakFacts, now: float, draft: _Draft) -> bool:
    if streak.count == 0:
        return True
    if streak.retry_at is None:
        return False
    if now < streak.retry_at:
        draft.wakes.append(streak.retry_at)
        return False
    return True
