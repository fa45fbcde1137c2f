"""The keeper's own moves: facts, enacting, suspending, and what people see."""

from __future__ import annotations

import pytest

from greenroom.core import keeper, leases, news, view
from greenroom.core.errors import LiveClaimsError
from greenroom.core.ledger import Build
from greenroom.core.lifecycle import EndReason, State
from greenroom.core.messages import ReleaseRequest
from greenroom.core.plan import AskBuild, AskContainer, BuildSnapshot, Provision, decide
from greenroom.core.pool_messages import ConfigureRequest, SuspendRequest
from greenroom.core.records import Failure
from tests.builders import NOW, make_config, make_ledger, make_request, make_source


def test_an_intent_stands_in_the_ledger_before_anything_is_sent() -> None:
    ledger = make_ledger()
    keeper.enact(ledger, Provision(2), NOW, iter(["K1", "K2"]))
    assert [s.state for s in ledger.slots.values()] == [State.CREATING] * 2
    assert [(e.kind, e.name) for e in ledger.outbox] == [("start", "Container")] * 2
    assert decide(keeper.facts(ledger, looking=False), NOW).actions == ()


def test_a_build_is_noted_and_started_once() -> None:
    ledger = make_ledger()
    ledger.wanted = make_source(2)
    for action in decide(keeper.facts(ledger, looking=False), NOW).actions:
        keeper.enact(ledger, action, NOW, iter(["K1", "K2"]))
    assert ledger.build is not None
    again = decide(keeper.facts(ledger, looking=False), NOW).actions
    assert not [a for a in again if isinstance(a, BuildSnapshot)]


def test_asking_notes_when_it_asked() -> None:
    ledger = make_ledger(ready=1)
    ledger.build = Build(source=make_source(2), since=NOW)
    container = next(iter(ledger.slots))
    keeper.enact(ledger, AskContainer(container), NOW + 5, iter([]))
    keeper.enact(ledger, AskBuild(), NOW + 6, iter([]))
    assert ledger.slots[container].asked_at == NOW + 5
    assert ledger.build.asked_at == NOW + 6
    assert [e.name for e in ledger.outbox] == ["ask", "ask"]


def test_retiring_twice_says_it_once() -> None:
    ledger = make_ledger(ready=1)
    (slot,) = ledger.slots.values()
    keeper.retire(ledger, slot, EndReason.STALE, NOW)
    keeper.retire(ledger, slot, EndReason.DOWN, NOW)
    assert slot.ending is EndReason.STALE
    assert len(ledger.outbox) == 1


def test_a_pool_with_live_claims_is_suspended_only_by_force() -> None:
    ledger = make_ledger(ready=2)
    leases.claim(ledger, make_request(), NOW)
    before = ledger.model_dump_json()
    with pytest.raises(LiveClaimsError) as caught:
        keeper.suspend(ledger, SuspendRequest(), NOW)
    assert caught.value.details["claims"] == "c1"
    assert ledger.model_dump_json() == before
    reply = keeper.suspend(ledger, SuspendRequest(force=True), NOW)
    assert (reply.live_claims, reply.containers) == (("c1",), 2)
    assert {s.ending for s in ledger.slots.values()} == {EndReason.DOWN}


def test_a_claim_that_is_ending_does_not_hold_a_pool_up() -> None:
    ledger = make_ledger(ready=1)
    lease = leases.claim(ledger, make_request(), NOW).lease
    assert lease is not None
    leases.release(ledger, ReleaseRequest(claim_id="c1", token=lease.token), NOW)
    assert keeper.suspend(ledger, SuspendRequest(), NOW).live_claims == ()


def test_up_wakes_a_pool_that_went_down_and_no_deleted_one() -> None:
    for reason, woken in ((EndReason.DOWN, True), (EndReason.DELETED, False)):
        ledger = make_ledger()
        keeper.suspend(ledger, SuspendRequest(reason=reason), NOW)
        request = ConfigureRequest(config=ledger.config, resume_from_down=True)
        keeper.configure(ledger, request)
        assert (ledger.suspended is None) is woken


def test_resizing_keeps_the_rest_and_its_bounds() -> None:
    config = make_config(size={"min": 2, "max": 4}, build=["make"])
    assert keeper.resized(config, 9, None).size.max == 9
    assert keeper.resized(config, 1, 3).build == ("make",)
    with pytest.raises(ValueError, match="below min"):
        keeper.resized(config, 5, 3)


def test_status_and_plan_count_the_same() -> None:
    ledger = make_ledger(ready=3)
    leases.claim(ledger, make_request(), NOW)
    old = list(ledger.slots.values())[-1]
    old.fingerprint = "older"
    keeper.enact(ledger, Provision(2), NOW, iter(["K1", "K2"]))
    shown = view.status(ledger, NOW, looking=False)
    counted = keeper.plan.counts(keeper.facts(ledger, looking=False))
    assert (shown.counts.ready, shown.counts.claimed) == (counted.ready, counted.claimed)
    assert shown.counts.stale == counted.stale_ready == 1
    assert shown.counts.creating == counted.preparing == 2
    assert (shown.hit_rate, shown.cold_rate) == (1.0, 0.0)
    assert [c.claim_id for c in shown.containers if c.claim_id] == ["c1"]


def test_a_failure_shows_its_reason_tail_and_next_try() -> None:
    ledger = make_ledger(serving=None)
    failure = Failure(step="install", reason="exit 1", tail="boom", log="/x.log", at=NOW)
    ledger.build_streak = news.failed_again(ledger.build_streak, failure, NOW)
    shown = view.status(ledger, NOW, looking=False)
    assert shown.failure == failure
    assert shown.refresh.state == "failed"
    assert shown.retry_at == NOW + 5
    assert shown.failure_streak == 1


def test_a_pool_that_was_never_asked_has_no_rates() -> None:
    shown = view.status(make_ledger(), NOW, looking=True)
    assert shown.hit_rate is None
    assert shown.cold_rate is None
    assert shown.refresh.state == "resolving"
