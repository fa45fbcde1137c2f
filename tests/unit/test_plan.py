"""The planner: properties over any facts, a world that obeys it, and stories."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.core.lifecycle import PREPARING, EndReason, State
from greenroom.core.plan import (
    ASK_AFTER_S,
    BACKOFF_MAX_S,
    IN_FLIGHT,
    STREAK_LIMIT,
    AskBuild,
    AskContainer,
    BuildSnapshot,
    Look,
    Plan,
    PoolSnapshot,
    Provision,
    RetireContainer,
    SlotFacts,
    StreakFacts,
    backoff,
    counts,
    decide,
    surge,
    target,
)
from tests.builders import NOW, pool_facts, slot_facts

LIVE_STATES = [s for s in State if s is not State.RETIRED]
times = st.floats(NOW - 1000, NOW + 1000).map(lambda t: round(t, 1))


@st.composite
def slots(draw: st.DrawFn) -> tuple[SlotFacts, ...]:
    number = draw(st.integers(0, 12))
    return tuple(
        SlotFacts(
            container=f"k{index:02d}",
            state=draw(st.sampled_from(LIVE_STATES)),
            since=draw(times),
            fresh=draw(st.booleans()),
            ending=draw(st.integers(0, 4)) == 0,
            deadline=draw(st.none() | times),
            asked_at=draw(st.just(0.0) | times),
        )
        for index in range(number)
    )


@st.composite
def streaks(draw: st.DrawFn) -> StreakFacts:
    count = draw(st.integers(0, STREAK_LIMIT))
    if count == 0:
        return StreakFacts()
    return StreakFacts(count, None if count == STREAK_LIMIT else draw(times))


@st.composite
def pools(draw: st.DrawFn) -> PoolSnapshot:
    minimum = draw(st.integers(0, 6))
    return PoolSnapshot(
        minimum=minimum,
        maximum=draw(st.integers(max(1, minimum), 12)),
        paused=draw(st.booleans()),
        suspended=draw(st.sampled_from([None, None, None, EndReason.DOWN, EndReason.DELETED])),
        queue=draw(st.integers(0, 4)),
        look=draw(st.booleans()),
        looking=draw(st.booleans()),
        wanted=draw(st.sampled_from([None, "s1", "s2"])),
        serving=draw(st.sampled_from([None, "s1"])),
        building=draw(st.sampled_from([None, "s2"])),
        build_deadline=draw(st.none() | times),
        build_streak=draw(streaks()),
        slot_streak=draw(streaks()),
        slots=draw(slots()),
        build_asked_at=draw(st.just(0.0) | times),
    )


def retired(plan: Plan) -> set[str]:
    return {a.container for a in plan.actions if isinstance(a, RetireContainer)}


def provisioned(plan: Plan) -> int:
    return sum(a.count for a in plan.actions if isinstance(a, Provision))


@given(pools())
def test_claimed_and_ending_containers_are_never_retired(facts: PoolSnapshot) -> None:
    untouchable = {s.container for s in facts.slots if s.ending or s.state is State.CLAIMED}
    assert not retired(decide(facts, NOW)) & untouchable


@given(pools())
def test_no_container_is_named_twice_by_a_plan(facts: PoolSnapshot) -> None:
    actions = decide(facts, NOW).actions
    assert len(set(actions)) == len(actions)
    named = [a.container for a in actions if isinstance(a, RetireContainer)]
    assert len(named) == len(set(named))


@given(pools())
def test_provisioning_respects_max_surge_and_what_is_in_flight(facts: PoolSnapshot) -> None:
    have, new = counts(facts), provisioned(decide(facts, NOW))
    if new == 0:
        return
    wanted = target(facts.minimum, facts.maximum, facts.queue)
    extra = surge(wanted) if have.stale_ready else 0
    assert have.live + new <= facts.maximum + extra
    assert have.preparing + new <= IN_FLIGHT
    assert have.fresh_ready + have.fresh_preparing + new <= wanted


@given(pools())
def test_retiring_stale_or_surplus_never_takes_ready_below_what_is_wanted(
    facts: PoolSnapshot,
) -> None:
    facts = replace(facts, suspended=None)
    gone = retired(decide(facts, NOW))
    ready = {s.container for s in facts.slots if not s.ending and s.state is State.READY}
    room = max(0, facts.maximum - counts(facts).claimed)
    wanted = min(target(facts.minimum, facts.maximum, facts.queue), room)
    assert len(ready - gone) >= min(wanted, len(ready))


@given(pools())
def test_a_fresh_container_is_never_retired_while_a_stale_one_is_kept(
    facts: PoolSnapshot,
) -> None:
    facts = replace(facts, suspended=None)
    gone = retired(decide(facts, NOW))
    ready = [s for s in facts.slots if not s.ending and s.state is State.READY]
    fresh_gone = [s for s in ready if s.fresh and s.container in gone]
    stale_kept = [s for s in ready if not s.fresh and s.container not in gone]
    assert not (fresh_gone and stale_kept)


@given(pools())
def test_a_suspended_pool_retires_all_that_is_unclaimed_and_starts_nothing(
    facts: PoolSnapshot,
) -> None:
    facts = replace(facts, suspended=EndReason.DOWN)
    plan = decide(facts, NOW)
    assert retired(plan) == {
        s.container for s in facts.slots if not s.ending and s.state is not State.CLAIMED
    }
    assert not [a for a in plan.actions if isinstance(a, Look | BuildSnapshot | Provision)]


@given(pools())
def test_a_paused_pool_starts_nothing(facts: PoolSnapshot) -> None:
    plan = decide(replace(facts, paused=True), NOW)
    assert not [a for a in plan.actions if isinstance(a, Look | BuildSnapshot | Provision)]


@given(pools())
def test_at_most_one_build_and_never_of_what_is_served(facts: PoolSnapshot) -> None:
    builds = [a for a in decide(facts, NOW).actions if isinstance(a, BuildSnapshot)]
    assert len(builds) <= 1
    if builds:
        assert facts.building is None
        assert builds[0].fingerprint == facts.wanted != facts.serving


@given(pools(), st.floats(0.0, 1.0))
@settings(max_examples=400)
def test_nothing_changes_by_itself_before_wake_at(facts: PoolSnapshot, share: float) -> None:
    """Between now and wake_at time alone changes no answer, so sleeping misses nothing."""
    plan = decide(facts, NOW)
    end = NOW + 5000 if plan.wake_at is None else plan.wake_at
    between = NOW + (end - NOW) * share
    if between >= end:
        between = NOW
    assert decide(facts, between).actions == plan.actions


@given(pools())
def test_wake_at_is_not_early(facts: PoolSnapshot) -> None:
    """At wake_at the answer has changed, or a hold-off has ended, or an ask is repeated."""
    plan = decide(facts, NOW)
    if plan.wake_at is None:
        return
    assert plan.wake_at > NOW
    then = decide(facts, plan.wake_at)
    asked = [a for a in plan.actions if isinstance(a, AskContainer | AskBuild)]
    held = {facts.build_streak.retry_at, facts.slot_streak.retry_at}
    assert then.actions != plan.actions or asked or plan.wake_at in held


@given(st.integers(0, 40))
def test_backoff_grows_is_bounded_and_ends(streak: int) -> None:
    wait = backoff(streak)
    if streak >= STREAK_LIMIT:
        assert wait is None
    else:
        assert wait is not None
        assert 0 < wait <= BACKOFF_MAX_S
        before = backoff(max(0, streak - 1))
        assert before is not None
        assert before <= wait


# ── a world that does what the plan says ─────────────────────────────────────────────────────


def obey(facts: PoolSnapshot, plan: Plan, now: float, tick: int) -> PoolSnapshot:
    """Enact ``plan``, then let one thing that is under way go one step further."""
    slots_now = {s.container: s for s in facts.slots}
    for number, action in enumerate(plan.actions):
        match action:
            case Look():
                facts = replace(facts, look=False)
            case BuildSnapshot(fingerprint):
                facts = replace(facts, building=fingerprint, build_deadline=now + 1e6)
            case Provision(count):
                for index in range(count):
                    name = f"n{tick:04d}{number:02d}{index:02d}"
                    slots_now[name] = slot_facts(name, State.CREATING, since=now)
            case RetireContainer(name):
                slots_now[name] = replace(slots_now[name], ending=True, since=now)
            case AskContainer(name):
                slots_now[name] = replace(slots_now[name], asked_at=now)
            case AskBuild():
                facts = replace(facts, build_asked_at=now)
    return replace(facts, slots=tuple(slots_now.values()))


def progress(facts: PoolSnapshot, now: float) -> PoolSnapshot:
    """One step of the outside: the build ends, else the first unsettled container moves on."""
    if facts.building is not None:
        stale = tuple(replace(s, fresh=False) for s in facts.slots)
        return replace(facts, serving=facts.building, building=None, slots=stale)
    for index, slot in enumerate(facts.slots):
        others = (*facts.slots[:index], *facts.slots[index + 1 :])
        if slot.ending:
            return replace(facts, slots=others)
        if slot.state in PREPARING:
            order = [State.CREATING, State.CLONING, State.INSTALLING, State.READY]
            following = order[order.index(slot.state) + 1]
            return replace(facts, slots=(*others, replace(slot, state=following, since=now)))
    return facts


@given(pools())
@settings(max_examples=200, deadline=None)
def test_any_pool_settles_at_its_minimum_of_fresh_ready_containers(facts: PoolSnapshot) -> None:
    calm = tuple(replace(s, deadline=None) for s in facts.slots)
    facts = replace(
        facts,
        paused=False,
        suspended=None,
        queue=0,
        looking=False,
        wanted=facts.wanted or "s1",
        build_streak=StreakFacts(),
        slot_streak=StreakFacts(),
        slots=calm,
        maximum=max(facts.maximum, 1),
    )
    now = NOW
    for tick in range(400):
        before = counts(facts)
        plan = decide(facts, now)
        facts = obey(facts, plan, now, tick)
        if provisioned(plan):
            wanted = target(facts.minimum, facts.maximum, 0)
            room = facts.maximum + (surge(wanted) if before.stale_ready else 0)
            assert counts(facts).live <= room
        moved = progress(facts, now)
        if moved == facts and not decide(facts, now).actions:
            break
        facts, now = moved, now + 1
    have = counts(facts)
    assert facts.serving == facts.wanted
    assert have.ready == have.fresh_ready
    assert have.preparing == have.ending == 0
    wanted_ready = min(facts.minimum, max(0, facts.maximum - have.claimed))
    assert wanted_ready <= have.fresh_ready <= facts.minimum
    settled = decide(facts, now)
    assert settled == Plan()


# ── stories ──────────────────────────────────────────────────────────────────────────────────


def test_a_new_pool_looks_at_its_repository_first() -> None:
    facts = pool_facts(wanted=None, serving=None, look=True)
    assert decide(facts, NOW).actions == (Look(),)
    assert decide(replace(facts, looking=True), NOW).actions == ()


def test_a_known_commit_is_built_once() -> None:
    facts = pool_facts(wanted="s1", serving=None)
    assert decide(facts, NOW).actions == (BuildSnapshot("s1"),)
    assert decide(replace(facts, building="s1"), NOW).actions == ()


def test_a_served_pool_fills_up_to_its_minimum() -> None:
    assert decide(pool_facts(), NOW).actions == (Provision(2),)


def test_a_full_pool_sleeps_for_ever() -> None:
    assert decide(pool_facts(slot_facts("a"), slot_facts("b")), NOW) == Plan()


def test_a_claim_is_replaced_at_once() -> None:
    facts = pool_facts(slot_facts("a", State.CLAIMED, deadline=NOW + 60), slot_facts("b"))
    plan = decide(facts, NOW)
    assert plan.actions == (Provision(1),)
    assert plan.wake_at == NOW + 60 + ASK_AFTER_S


def test_waiting_claims_raise_the_target_but_not_above_max() -> None:
    assert decide(pool_facts(queue=1), NOW).actions == (Provision(3),)
    assert decide(pool_facts(queue=50, maximum=3), NOW).actions == (Provision(3),)


def test_claimed_containers_count_against_max() -> None:
    held = [slot_facts(f"c{n}", State.CLAIMED) for n in range(4)]
    assert decide(pool_facts(*held, maximum=5), NOW).actions == (Provision(1),)
    assert decide(pool_facts(*held, maximum=4), NOW).actions == ()


def test_ending_containers_count_against_max_until_they_are_gone() -> None:
    facts = pool_facts(slot_facts("a", ending=True), slot_facts("b", ending=True), maximum=2)
    assert decide(facts, NOW).actions == ()


def test_stale_containers_stay_until_a_fresh_one_stands_in() -> None:
    old = [slot_facts("a", fresh=False), slot_facts("b", fresh=False)]
    assert decide(pool_facts(*old), NOW).actions == (Provision(1),)
    plan = decide(pool_facts(*old, slot_facts("n")), NOW)
    assert RetireContainer("a", EndReason.STALE) in plan.actions
    assert retired(plan) == {"a"}


def test_a_pool_full_of_claims_may_go_one_over_max_to_replace_a_stale_container() -> None:
    held = [slot_facts(f"c{n}", State.CLAIMED) for n in range(3)]
    facts = pool_facts(*held, slot_facts("old", fresh=False), minimum=1, maximum=4)
    assert decide(facts, NOW).actions == (Provision(1),)


def test_stale_preparations_are_given_up() -> None:
    facts = pool_facts(slot_facts("a", State.CLONING, fresh=False), slot_facts("b"))
    assert retired(decide(facts, NOW)) == {"a"}


def test_surplus_goes_oldest_first() -> None:
    facts = pool_facts(*(slot_facts(n, since=NOW - age) for n, age in (("a", 1), ("b", 9))))
    plan = decide(replace(facts, minimum=1), NOW)
    assert plan.actions == (RetireContainer("b", EndReason.SURPLUS),)


def test_a_smaller_max_takes_ready_containers_away_but_no_claimed_one() -> None:
    held = [slot_facts(f"c{n}", State.CLAIMED) for n in range(4)]
    plan = decide(pool_facts(*held, slot_facts("a"), slot_facts("b"), maximum=5), NOW)
    assert retired(plan) == {"a"}


def test_a_lease_past_its_time_is_asked_about_and_never_ended_here() -> None:
    late = slot_facts("a", State.CLAIMED, deadline=NOW - ASK_AFTER_S)
    facts = pool_facts(late, slot_facts("b"), slot_facts("c"))
    plan = decide(facts, NOW)
    assert plan.actions == (AskContainer("a"),)
    assert plan.wake_at == NOW + ASK_AFTER_S
    asked = replace(facts, slots=(replace(late, asked_at=NOW), *facts.slots[1:]))
    assert decide(asked, NOW).actions == ()
    assert decide(asked, NOW + ASK_AFTER_S).actions == (AskContainer("a"),)


def test_a_stuck_preparation_is_retired() -> None:
    facts = pool_facts(slot_facts("a", State.INSTALLING, deadline=NOW + 5), slot_facts("b"))
    assert decide(facts, NOW) == Plan((), NOW + 5)
    assert decide(facts, NOW + 5).actions == (RetireContainer("a", EndReason.STUCK),)


def test_a_silent_build_is_asked_about() -> None:
    facts = pool_facts(wanted="s2", building="s2", build_deadline=NOW - 60, minimum=0)
    assert decide(facts, NOW).actions == (AskBuild(),)


@pytest.mark.parametrize("kind", ["build", "slot"])
def test_a_failure_streak_holds_off_until_its_time(kind: str) -> None:
    streak = StreakFacts(2, NOW + 10)
    facts = (
        pool_facts(build_streak=streak, look=True, minimum=0)
        if kind == "build"
        else pool_facts(slot_streak=streak)
    )
    assert decide(facts, NOW) == Plan((), NOW + 10)
    assert decide(facts, NOW + 10).actions == ((Look(),) if kind == "build" else (Provision(1),))


def test_a_streak_at_its_limit_stops_for_good() -> None:
    stopped = StreakFacts(STREAK_LIMIT, None)
    assert decide(pool_facts(slot_streak=stopped, build_streak=stopped, look=True), NOW) == Plan()


def test_a_failing_build_does_not_stop_the_last_good_snapshot_from_serving() -> None:
    facts = pool_facts(wanted="s2", build_streak=StreakFacts(STREAK_LIMIT, None))
    assert decide(facts, NOW).actions == (Provision(2),)


def test_a_thousand_containers_are_planned() -> None:
    many = [slot_facts(f"k{n:04d}", fresh=n % 3 == 0, since=NOW + n) for n in range(1000)]
    plan = decide(pool_facts(*many, minimum=500, maximum=1000), NOW)
    assert len(retired(plan)) == 500
