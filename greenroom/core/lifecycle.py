"""Everything about a container's states lives in this file.

The table below is the whole truth: what is not in it is illegal, raises, and changes nothing.
The diagram in ``docs/lifecycle.md`` is drawn from it.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a container is in its one life."""

    CREATING = "creating"
    CLONING = "cloning"
    INSTALLING = "installing"
    READY = "ready"
    CLAIMED = "claimed"
    RETIRED = "retired"


class Event(StrEnum):
    """What can happen to a container."""

    CREATED = "created"
    CLONED = "cloned"
    INSTALLED = "installed"
    CLAIMED = "claimed"
    RETIRED = "retired"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CREATING, Event.CREATED): State.CLONING,
    (State.CLONING, Event.CLONED): State.INSTALLING,
    (State.INSTALLING, Event.INSTALLED): State.READY,
    (State.READY, Event.CLAIMED): State.CLAIMED,
    (State.CREATING, Event.RETIRED): State.RETIRED,
    (State.CLONING, Event.RETIRED): State.RETIRED,
    (State.INSTALLING, Event.RETIRED): State.RETIRED,
    (State.READY, Event.RETIRED): State.RETIRED,
    (State.CLAIMED, Event.RETIRED): State.RETIRED,
}

PREPARING = frozenset({State.CREATING, State.CLONING, State.INSTALLING})
"""States in which a container is on its way to ready."""


class EndReason(StrEnum):
    """Why a container was retired, or a claim ended."""

    RELEASED = "released"
    EXPIRED = "expired"
    DIED = "died"
    FAILED = "failed"
    STUCK = "stuck"
    STALE = "stale"
    SURPLUS = "surplus"
    DOWN = "down"
    DELETED = "deleted"
    LOST = "lost"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    ABANDONED = "abandoned"
    REFUSED = "refused"


class IllegalTransitionError(ValueError):
    """The table has no such transition."""


def next_state(state: State, event: Event) -> State:
    """The state after ``event``; raises IllegalTransitionError and changes nothing otherwise."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        legal = ", ".join(e for s, e in TRANSITIONS if s == state) or "none"
        raise IllegalTransitionError(f"{event} is illegal in {state}; legal: {legal}") from None
