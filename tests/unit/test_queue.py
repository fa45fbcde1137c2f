"""The queue: its order, its fairness, what holds it up, and what it promises."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.core import keeper, leases, queue
from greenroom.core.errors import NoContainerError, UsageError
from greenroom.core.ledger import Ledger, Waiting
from greenroom.core.lifecycle import State
from greenroom.core.messages import ClaimRequest, ReleaseRequest
from greenroom.core.pool_messages import ConfigureRequest
from tests.builders import NOW, add_ready, make_config, make_ledger, make_request

HOLDERS = ("", "ann", "bob")


@st.composite
def queues(draw: st.DrawFn) -> list[Waiting]:
    found = []
    for arrival in range(draw(st.integers(0, 12))):
        request = make_request(
            f"c{arrival}",
            holder=draw(st.sampled_from(HOLDERS)),
            priority=draw(st.integers(-1, 1)),
            count=draw(st.integers(1, 3)),
        )
        head = draw(st.sampled_from([False, False, False, True]))
        found.append(Waiting(request=request, since=NOW, arrival=arrival, head=head))
    return found


held = st.dictionaries(st.sampled_from(HOLDERS), st.integers(0, 5))


def ids(found: list[Waiting]) -> list[str]:
    return [waiting.request.claim_id for waiting in found]


@given(queues(), held, st.randoms())
def test_the_order_is_that_of_serving_one_after_the_other(
    waiting: list[Waiting], live: dict[str, int], random: object
) -> None:
    """Each time the best of those that are left, with what was served before counted as live."""
    holds, left, served = Counter(live), list(waiting), []
    while left:
        best = min(
            left,
            key=lambda w: (
                not w.head,
                0 if w.head else -w.request.priority,
                0 if w.head else holds[w.request.holder],
                w.arrival,
            ),
        )
        left.remove(best)
        served.append(best)
        holds[best.request.holder] += best.request.count
    shuffled = list(waiting)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert ids(queue.ordered(shuffled, live)) == ids(served)


def waits(ledger: Ledger, claim_id: str, now: float = NOW, **how: object) -> None:
    reply = leases.claim(ledger, make_request(claim_id, wait_s=900, **how), now)
    assert reply.outcome == "queued"


def serve_one(ledger: Ledger, number: int, now: float = NOW) -> set[str]:
    """One more container becomes ready; the claims that were granted."""
    before = {w.request.claim_id for w in ledger.queue}
    add_ready(ledger, number, now)
    leases.grant_waiting(ledger, now)
    return before - {w.request.claim_id for w in ledger.queue}


@given(st.integers(1, 4), st.booleans())
def test_nobody_starves_within_a_priority(mine: int, group: bool) -> None:
    """However many holders with nothing come after it, a claim is passed PASSES times at most."""
    ledger = make_ledger(ready=1, config=make_config(size={"min": 1, "max": 500}))
    leases.claim(ledger, make_request("has-one", holder="ann"), NOW)
    for n in range(mine):
        waits(ledger, f"ann-{n}", holder="ann", count=2 if group else 1)
    strangers = 0
    for turn in range((queue.PASSES + 3) * mine * 2):
        waits(ledger, f"s{turn}", holder=f"stranger-{turn}")
        strangers += sum(not claim.startswith("ann") for claim in serve_one(ledger, turn + 10))
        if not any(w.request.holder == "ann" for w in ledger.queue):
            break
    assert not any(w.request.holder == "ann" for w in ledger.queue)
    assert strangers <= queue.PASSES * mine


def test_a_higher_priority_goes_first_and_a_dead_containers_claim_before_all() -> None:
    ledger = make_ledger(ready=1)
    lost = leases.claim(ledger, make_request("lost"), NOW).lease
    assert lost is not None
    waits(ledger, "low", priority=-5)
    waits(ledger, "plain")
    waits(ledger, "high", priority=5)
    leases.regrant(ledger, ledger.slots[lost.container], NOW)
    order = ids(queue.ordered(ledger.queue, queue.live_leases(ledger)))
    assert order == ["lost", "high", "plain", "low"]
    assert [serve_one(ledger, n) for n in range(5, 9)] == [{name} for name in order]


def test_a_group_keeps_its_place_until_all_of_it_is_there() -> None:
    ledger = make_ledger(ready=2)
    waits(ledger, "group", count=3)
    waits(ledger, "later")
    assert queue.demand(ledger) == 4
    with pytest.raises(NoContainerError):
        leases.claim(ledger, make_request("hasty"), NOW)
    urgent = leases.claim(ledger, make_request("urgent", priority=1), NOW)
    assert urgent.lease is not None
    assert serve_one(ledger, 5) == set()
    assert serve_one(ledger, 6) == {"group"}
    assert serve_one(ledger, 7) == {"later"}


def test_demand_counts_containers_and_raises_the_target() -> None:
    ledger = make_ledger(config=make_config(size={"min": 1, "max": 20}))
    for n, count in enumerate((1, 2, 5)):
        waits(ledger, f"c{n}", count=count)
    assert keeper.facts(ledger, looking=False).queue == 8
    plan = keeper.plan
    assert plan.target(1, 20, keeper.facts(ledger, looking=False).queue) == 9


def quota(per_holder: int | None, **size: int) -> Ledger:
    config = make_config(size=size or {"min": 1, "max": 9}, claims={"per_holder": per_holder})
    return make_ledger(ready=4, config=config)


def test_a_holder_at_its_quota_waits_and_holds_up_nobody() -> None:
    ledger = quota(2)
    first, _ = (leases.claim(ledger, make_request(f"a{n}", holder="ann"), NOW) for n in range(2))
    with pytest.raises(
        NoContainerError, match=r"ann has 2 live claims .*per_holder is 2"
    ) as caught:
        leases.claim(ledger, make_request("a2", holder="ann"), NOW)
    assert caught.value.details["miss_reason"] == "quota"
    waits(ledger, "a3", holder="ann", priority=9)
    assert queue.views(ledger, NOW)[0].miss_reason == "quota"
    assert queue.demand(ledger) == 0
    assert leases.claim(ledger, make_request("b1", holder="bob"), NOW).lease is not None
    assert first.lease is not None
    leases.release(ledger, ReleaseRequest(claim_id="a0", token=first.lease.token), NOW)
    leases.grant_waiting(ledger, NOW)
    slot = ledger.slot_of("a3")
    assert slot is not None
    assert slot.lease is not None
    assert slot.lease.miss_reason == "quota"


def test_a_quota_bounds_groups_and_partial_ones_take_what_it_leaves() -> None:
    ledger = quota(3)
    leases.claim(ledger, make_request("a0", holder="ann"), NOW)
    with pytest.raises(UsageError, match=r"claims\.per_holder is 3"):
        leases.claim(ledger, make_request("g", holder="ann", count=4), NOW)
    waits(ledger, "g", holder="ann", count=3)
    waits(ledger, "a1", holder="ann")  # behind its own holder's group, not past it
    some = leases.claim(ledger, make_request("b", holder="bob", count=3, partial=True), NOW)
    assert len(some.leases) == 3
    assert {lease.group_size for lease in some.leases} == {3}


def test_a_group_that_the_pool_file_makes_impossible_is_told_so() -> None:
    ledger = make_ledger(ready=1)
    waits(ledger, "group", count=5)
    waits(ledger, "single")
    smaller = make_config(size={"min": 1, "max": 4})
    keeper.configure(ledger, ConfigureRequest(config=smaller))
    leases.grant_waiting(ledger, NOW)
    told = [e.payload for e in ledger.outbox if e.name == "verdict"]
    assert told[0]["detail"] == "usage: count 5 is more than pool api has: size.max is 4"
    assert told[1]["lease"]["claim_id"] == "single"
    with pytest.raises(UsageError, match=r"size\.max is 4"):
        leases.check_request(ledger, make_request("more", count=5))


def test_the_queue_has_a_bound() -> None:
    ledger = make_ledger(config=make_config(claims={"queue": 2}))
    waits(ledger, "c1")
    waits(ledger, "c2")
    with pytest.raises(NoContainerError, match=r"full: claims\.queue is 2"):
        leases.claim(ledger, make_request("c3", wait_s=9), NOW)
    waits(ledger, "c2")  # known already
    assert ledger.counters.refused == {"pool_empty": 1}


# ── when ─────────────────────────────────────────────────────────────────────────────────────


def preparing(*ages: float, ready: int = 0, timings: tuple[float, ...] = (40.0,)) -> Ledger:
    ledger = make_ledger(ready=ready, timings=list(timings))
    for number, age in enumerate(ages):
        slot = ledger.slots[add_ready(ledger, 100 + number, NOW - age)]
        slot.state = State.CLONING
    return ledger


@pytest.mark.parametrize(
    ("ledger", "expected"),
    [
        (preparing(), [40, 40, 40, 40, 80]),
        (preparing(10, 30), [10, 30, 40, 40, 50]),
        (preparing(10, ready=2), [0, 0, 30, 40, 40]),
        (preparing(500), [4, 40, 40, 40, 44]),
        (preparing(timings=()), [30, 30, 30, 30, 60]),
        (preparing(timings=(1, 2, 100)), [2, 2, 2, 2, 4]),
    ],
)
def test_an_estimate_comes_from_what_preparing_took(ledger: Ledger, expected: list[float]) -> None:
    assert [queue.eta(ledger, n, NOW) for n in range(1, 6)] == expected


@given(st.lists(st.floats(0, 100), max_size=4), st.integers(1, 30))
def test_estimates_never_fall_along_the_queue(ages: list[float], position: int) -> None:
    ledger = preparing(*ages)
    assert queue.eta(ledger, position, NOW) <= queue.eta(ledger, position + 1, NOW)


def test_a_groups_estimate_is_that_of_its_last_container() -> None:
    ledger = preparing()
    waits(ledger, "one")
    waits(ledger, "four", count=4)
    assert [(v.position, v.eta_s) for v in queue.views(ledger, NOW)] == [(1, 40), (2, 80)]
    again = leases.claim(ledger, ClaimRequest(claim_id="four", count=4, wait_s=1), NOW)
    assert again.queued is not None
    assert (again.queued.position, again.queued.eta_s) == (2, 80)
