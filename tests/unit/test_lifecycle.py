"""The lifecycle table is total in what it refuses."""

from __future__ import annotations

import itertools

import pytest

from greenroom.core.ledger import Slot
from greenroom.core.lifecycle import (
    PREPARING,
    TRANSITIONS,
    Event,
    IllegalTransitionError,
    State,
    next_state,
)
from tests.builders import NOW

PAIRS = list(itertools.product(State, Event))


def slot(state: State) -> Slot:
    return Slot(
        container="k", state=state, since=NOW, created_at=NOW, fingerprint="s1", commit="c1"
    )


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_what_is_not_in_the_table_raises_and_changes_nothing(state: State, event: Event) -> None:
    subject = slot(state)
    if (state, event) in TRANSITIONS:
        subject.advance(event, NOW + 1)
        assert (subject.state, subject.since) == (TRANSITIONS[state, event], NOW + 1)
        return
    with pytest.raises(IllegalTransitionError, match=f"{event} is illegal in {state}"):
        subject.advance(event, NOW + 1)
    assert subject == slot(state)


def test_a_container_is_claimed_from_ready_only_and_once() -> None:
    assert [s for s in State if (s, Event.CLAIMED) in TRANSITIONS] == [State.READY]
    following = {new for (old, _), new in TRANSITIONS.items() if old is State.CLAIMED}
    assert following == {State.RETIRED}


def test_nothing_leads_out_of_retired_and_everything_leads_there() -> None:
    assert not [event for state, event in TRANSITIONS if state is State.RETIRED]
    for state in set(State) - {State.RETIRED}:
        assert next_state(state, Event.RETIRED) is State.RETIRED


def test_there_is_no_way_back() -> None:
    order = list(State)
    assert all(order.index(new) > order.index(old) for (old, _), new in TRANSITIONS.items())
    assert {State.CREATING, State.CLONING, State.INSTALLING} == PREPARING
