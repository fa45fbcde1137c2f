"""What a lease needs when: pure arithmetic over its times."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from greenroom.core.lease_clock import Due, LeaseClock

PLAIN = LeaseClock(expires_at=1000)
WARNED = LeaseClock(expires_at=1000, warn_s=100)
BEATING = LeaseClock(expires_at=1000, beat_s=10, grace_s=5, beat_at=100, checked_at=0)


def test_a_lease_without_terms_needs_only_its_end() -> None:
    assert PLAIN.wake_at() == 1000
    assert PLAIN.due(999.9) is None
    assert PLAIN.due(1000) is Due.END
    assert not PLAIN.is_abandoned(1e9)


def test_a_holder_is_warned_once_before_the_end() -> None:
    assert WARNED.wake_at() == 900
    assert WARNED.due(900) is Due.WARNING
    told = replace(WARNED, warned=True)
    assert (told.due(900), told.wake_at()) == (None, 1000)
    extended = replace(told, expires_at=2000, warned=False)
    assert (extended.due(1000), extended.wake_at()) == (None, 1900)


def test_a_lease_shorter_than_its_warning_is_warned_of_at_once() -> None:
    assert replace(WARNED, expires_at=50).due(0) is Due.WARNING


def test_the_host_is_asked_at_the_earliest_possible_end_and_not_sooner_than_a_period_later() -> (
    None
):
    assert BEATING.wake_at() == 115
    assert BEATING.due(115) is Due.BEAT_CHECK
    heard_just_in_time = replace(BEATING, beat_at=101, checked_at=115)
    assert heard_just_in_time.wake_at() == 125
    assert replace(BEATING, beat_at=114, checked_at=115).wake_at() == 129


def test_a_month_of_heartbeats_every_second_is_some_thousand_looks() -> None:
    month = 30 * 86400.0
    clock = LeaseClock(expires_at=month, beat_s=1, grace_s=0)
    looks = 0
    while (now := clock.wake_at()) < month:
        looks += 1
        clock = replace(clock, beat_at=now, checked_at=now)
    assert 500 < looks < 1500


def test_silence_for_longer_than_period_and_grace_is_abandonment() -> None:
    assert not BEATING.is_abandoned(114.9)
    assert BEATING.is_abandoned(115)
    assert not replace(BEATING, beat_s=0).is_abandoned(115)


@given(
    st.builds(
        LeaseClock,
        expires_at=st.floats(0, 1e6),
        warn_s=st.floats(0, 1e4),
        warned=st.booleans(),
        beat_s=st.sampled_from([0.0, 1.0, 30.0]),
        grace_s=st.floats(0, 1e3),
        beat_at=st.floats(0, 1e6),
        checked_at=st.floats(0, 1e6),
        granted_at=st.floats(0, 1e6),
    ),
    st.floats(0, 1e6),
)
def test_whoever_sleeps_until_wake_at_finds_something_due(clock: LeaseClock, now: float) -> None:
    """Else the workflow would spin on timers of no length, or sleep past an end."""
    assert clock.wake_at() <= clock.expires_at
    assert clock.due(clock.wake_at()) is not None
    assert (clock.due(now) is not None) == (now >= clock.wake_at())
