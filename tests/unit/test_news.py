"""What the keeper hears: order, strangers, streaks, lost receivers."""

from __future__ import annotations

import itertools

import pytest

from greenroom.core import keeper, leases, news, plan
from greenroom.core.ledger import Build, Ledger, OutboxEntry
from greenroom.core.lifecycle import EndReason, State
from greenroom.core.messages import NewsKind
from greenroom.core.names import container_workflow_id, snapshot_workflow_id, wait_workflow_id
from greenroom.core.plan import STREAK_LIMIT, BuildSnapshot, Provision
from greenroom.core.pool_messages import SnapshotNews
from greenroom.core.records import Failure, Lease
from tests.builders import (
    NOW,
    make_config,
    make_ledger,
    make_news,
    make_record,
    make_request,
    make_source,
)

FAILURE = Failure(step="install", reason="exit 1", tail="no such package")


def provisioned(ledger: Ledger, count: int = 1, at: float = NOW) -> list[str]:
    names = [f"K{at:.0f}-{n}" for n in range(count)]
    keeper.enact(ledger, Provision(count), at, iter(names))
    return names


def claimed(ledger: Ledger) -> Lease:
    lease = leases.claim(ledger, make_request(), NOW).lease
    assert lease is not None
    return lease


STEPS: tuple[NewsKind, ...] = ("created", "cloned", "installed")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_steps_in_any_order_lead_to_ready(order: tuple[int, ...]) -> None:
    ledger = make_ledger()
    (container,) = provisioned(ledger)
    seen = []
    for number in order:
        told = make_news(container, STEPS[number], number + 1, host="h", docker_id="d")
        news.hear_container(ledger, told, NOW + 10)
        seen.append(list(State).index(ledger.slots[container].state))
    assert ledger.slots[container].state is State.READY
    assert seen == sorted(seen)
    assert ledger.timings == [10.0]


def test_an_older_piece_under_a_newer_number_takes_nothing_back_or_forward() -> None:
    ledger = make_ledger()
    (container,) = provisioned(ledger)
    news.hear_container(ledger, make_news(container, "cloned", 2), NOW)
    news.hear_container(ledger, make_news(container, "created", 3), NOW)
    assert ledger.slots[container].state is State.INSTALLING


def test_a_ready_container_goes_to_the_first_in_the_queue() -> None:
    ledger = make_ledger()
    leases.claim(ledger, make_request(wait_s=60), NOW)
    (container,) = provisioned(ledger)
    news.hear_container(ledger, make_news(container, "installed", 3), NOW + 7)
    slot = ledger.slot_of("c1")
    assert slot is not None
    assert slot.container == container


def test_an_extension_never_shortens_a_lease() -> None:
    ledger = make_ledger(ready=1)
    lease = claimed(ledger)
    for seq, until in ((4, lease.expires_at + 50), (5, lease.expires_at - 50)):
        told = make_news(lease.container, "extended", seq, expires_at=until)
        news.hear_container(ledger, told, NOW)
    slot = ledger.slot_of("c1")
    assert slot is not None
    assert slot.lease is not None
    assert slot.lease.expires_at == lease.expires_at + 50


def test_an_end_is_remembered_with_its_reason() -> None:
    ledger = make_ledger(ready=1)
    lease = claimed(ledger)
    end = {"reason": "expired", "expires_at": lease.expires_at}
    news.hear_container(ledger, make_news(lease.container, "ending", 4, **end), NOW)
    assert ledger.slots[lease.container].ending is EndReason.EXPIRED
    news.hear_container(ledger, make_news(lease.container, "retired", 5, **end), NOW)
    assert ledger.find_ended("c1") == (lease.container, EndReason.EXPIRED)
    assert ledger.counters.retired == {"expired": 1}


def test_a_grant_that_met_a_dying_container_moves_to_another() -> None:
    """GIVEN a ready container that dies unseen WHEN it is granted THEN the claim gets the next."""
    ledger = make_ledger(ready=2)
    lease = claimed(ledger)
    news.hear_container(ledger, make_news(lease.container, "retired", 4, reason="died"), NOW)
    slot = ledger.slot_of("c1")
    assert slot is not None
    assert slot.lease is not None
    assert slot.container != lease.container
    assert slot.lease.token > lease.token
    assert ledger.find_ended("c1") is None


def test_a_grant_to_a_workflow_that_is_gone_moves_to_another() -> None:
    ledger = make_ledger(ready=2)
    lease = claimed(ledger)
    (entry,) = [e for e in ledger.outbox if e.name == "claimed"]
    news.undeliverable(ledger, entry, NOW)
    assert lease.container not in ledger.slots
    slot = ledger.slot_of("c1")
    assert slot is not None
    assert slot.container != lease.container


def test_a_corpse_reported_by_its_workflow_is_replaced_and_waited_for() -> None:
    ledger = make_ledger(ready=1)
    lease = claimed(ledger)
    news.hear_container(ledger, make_news(lease.container, "corpse", 4), NOW)
    assert [w.request.claim_id for w in ledger.queue] == ["c1"]
    (container,) = provisioned(ledger)
    news.hear_container(ledger, make_news(container, "installed", 3), NOW)
    slot = ledger.slot_of("c1")
    assert slot is not None
    assert slot.container == container


def test_a_corpse_of_a_suspended_pool_waits_for_nothing() -> None:
    ledger = make_ledger(ready=1)
    lease = claimed(ledger)
    ledger.suspended = EndReason.DELETED
    news.hear_container(ledger, make_news(lease.container, "corpse", 4), NOW)
    assert not ledger.queue
    assert ledger.find_ended("c1") == (lease.container, EndReason.DIED)


# ── strangers ────────────────────────────────────────────────────────────────────────────────


def test_a_container_that_the_ledger_does_not_have_must_go() -> None:
    ledger = make_ledger()
    news.hear_container(ledger, make_news("stray", "installed", 3), NOW)
    (entry,) = ledger.outbox
    assert (entry.name, entry.workflow_id) == ("retire", container_workflow_id("api", "stray"))
    assert entry.payload["reason"] == "lost"


@pytest.mark.parametrize(
    ("kind", "how"),
    [("retired", {}), ("ending", {}), ("extended", {}), ("alive", {"expires_at": NOW + 9})],
)
def test_a_stranger_that_is_over_or_held_is_left_alone(
    kind: NewsKind, how: dict[str, object]
) -> None:
    ledger = make_ledger()
    news.hear_container(ledger, make_news("stray", kind, 3, **how), NOW)
    assert not ledger.outbox


# ── failures ─────────────────────────────────────────────────────────────────────────────────


def test_containers_that_fail_together_count_as_one_round() -> None:
    ledger = make_ledger()
    for container in provisioned(ledger, 4):
        told = make_news(container, "retired", 2, reason="failed", failure=FAILURE)
        news.hear_container(ledger, told, NOW + 5)
    assert ledger.slot_streak.count == 1
    assert ledger.slot_streak.failure == FAILURE
    assert ledger.counters.failures == 4


def test_a_streak_grows_round_by_round_until_it_stops() -> None:
    ledger = make_ledger()
    for round_ in range(STREAK_LIMIT):
        at = NOW + 1000 * round_
        (container,) = provisioned(ledger, 1, at)
        told = make_news(container, "retired", 2, reason="failed", failure=FAILURE)
        news.hear_container(ledger, told, at + 5)
    assert ledger.slot_streak.count == STREAK_LIMIT
    assert ledger.slot_streak.retry_at is None


@pytest.mark.parametrize("reason", ["died", "lost", "stuck"])
def test_a_container_that_dies_while_it_is_prepared_counts_as_failed(reason: str) -> None:
    ledger = make_ledger()
    (container,) = provisioned(ledger)
    news.hear_container(ledger, make_news(container, "retired", 2, reason=reason), NOW)
    assert ledger.slot_streak.count == 1
    assert ledger.slot_streak.failure is not None
    assert reason in ledger.slot_streak.failure.reason


@pytest.mark.parametrize("reason", ["stale", "surplus", "down"])
def test_a_preparation_that_was_given_up_is_no_failure(reason: str) -> None:
    ledger = make_ledger()
    (container,) = provisioned(ledger)
    keeper.retire(ledger, ledger.slots[container], EndReason(reason), NOW)
    news.hear_container(ledger, make_news(container, "retired", 2, reason=reason), NOW)
    assert ledger.slot_streak.count == 0


def test_one_ready_container_ends_the_streak() -> None:
    ledger = make_ledger()
    ledger.slot_streak = news.failed_again(ledger.slot_streak, FAILURE, NOW)
    (container,) = provisioned(ledger, 1, NOW + 10)
    news.hear_container(ledger, make_news(container, "installed", 3), NOW + 20)
    assert ledger.slot_streak.count == 0


# ── builds and sources ───────────────────────────────────────────────────────────────────────


def building(number: int = 2) -> Ledger:
    ledger = make_ledger()
    ledger.wanted = make_source(number)
    ledger.build = Build(source=make_source(number), since=NOW)
    return ledger


def test_a_built_snapshot_serves() -> None:
    ledger = building()
    record = make_record(2)
    news.hear_snapshot(
        ledger, SnapshotNews(fingerprint=record.source.fingerprint, record=record), NOW
    )
    assert ledger.serving == record
    assert ledger.build is None


@pytest.mark.parametrize(("number", "serves"), [(1, False), (2, True)])
def test_a_snapshot_whose_image_is_gone_is_built_again(number: int, serves: bool) -> None:
    ledger = make_ledger()
    (container,) = provisioned(ledger)
    ledger.serving = make_record(number)
    ledger.wanted = ledger.serving.source
    gone = Failure(step=news.IMAGE_GONE_STEP, reason="the image is not on this host")
    told = make_news(container, "retired", 1, reason=EndReason.FAILED, failure=gone)
    news.hear_container(ledger, told, NOW)
    assert (ledger.serving is not None) is serves
    actions = plan.decide(keeper.facts(ledger, looking=False), NOW).actions
    assert any(isinstance(action, BuildSnapshot) for action in actions) is not serves


def test_news_of_another_build_changes_nothing() -> None:
    ledger = building()
    before = ledger.model_dump_json()
    told = SnapshotNews(fingerprint=make_source(3).fingerprint, failure=FAILURE)
    news.hear_snapshot(ledger, told, NOW)
    assert ledger.model_dump_json() == before


def test_a_failed_build_leaves_the_last_good_snapshot() -> None:
    ledger = building()
    served = ledger.serving
    told = SnapshotNews(fingerprint=make_source(2).fingerprint, failure=FAILURE)
    news.hear_snapshot(ledger, told, NOW)
    assert ledger.serving == served
    assert (ledger.build_streak.count, ledger.build_streak.failure) == (1, FAILURE)


def test_a_newer_commit_stops_the_build_of_the_older_and_forgives() -> None:
    ledger = building()
    ledger.build_streak = news.failed_again(ledger.build_streak, FAILURE, NOW)
    news.hear_source(ledger, make_source(3), ledger.generation, NOW)
    assert ledger.wanted == make_source(3)
    assert ledger.build_streak.count == 0
    (entry,) = ledger.outbox
    old = snapshot_workflow_id("api", make_source(2).fingerprint)
    assert (entry.name, entry.workflow_id) == ("stop", old)


def test_the_same_commit_again_forgives_nothing() -> None:
    ledger = building()
    ledger.build_streak = news.failed_again(ledger.build_streak, FAILURE, NOW)
    news.hear_source(ledger, make_source(2), ledger.generation, NOW)
    assert ledger.build_streak.count == 1
    assert not ledger.outbox


def test_a_look_for_an_older_pool_file_is_ignored() -> None:
    ledger = make_ledger()
    news.hear_source(ledger, make_source(9), ledger.generation - 1, NOW)
    assert ledger.wanted == make_source(1)


def test_a_repository_that_is_not_there_is_looked_for_again_later() -> None:
    ledger = make_ledger()
    gone = Failure(step="source", reason="no such repository")
    news.hear_source(ledger, gone, ledger.generation, NOW)
    assert ledger.look
    assert ledger.build_streak.retry_at is not None
    news.hear_source(ledger, make_source(1), ledger.generation, NOW)
    assert ledger.build_streak.count == 0


def test_a_push_is_worth_one_try_even_to_a_stopped_pool() -> None:
    ledger = make_ledger()
    for _ in range(STREAK_LIMIT):
        ledger.build_streak = news.failed_again(ledger.build_streak, FAILURE, NOW)
    assert not keeper.plan.decide(keeper.facts(ledger, looking=False), NOW).actions[1:]
    keeper.look_again(ledger, force=False)
    plan = keeper.plan.decide(keeper.facts(ledger, looking=False), NOW)
    assert keeper.plan.Look() in plan.actions
    ledger.build_streak = news.failed_again(ledger.build_streak, FAILURE, NOW)
    assert ledger.build_streak.retry_at is None


# ── lost receivers ───────────────────────────────────────────────────────────────────────────


def entry(workflow_id: str, name: str, **payload: object) -> OutboxEntry:
    return OutboxEntry(id=1, kind="signal", workflow_id=workflow_id, name=name, payload=payload)


def test_a_container_whose_workflow_is_gone_is_struck_off() -> None:
    ledger = make_ledger(ready=1)
    lease = claimed(ledger)
    news.undeliverable(ledger, entry(lease.container_workflow, "ask"), NOW)
    assert not ledger.slots
    assert ledger.find_ended("c1") == (lease.container, EndReason.LOST)


def test_a_build_whose_workflow_is_gone_has_failed() -> None:
    ledger = building()
    ident = snapshot_workflow_id("api", make_source(2).fingerprint)
    news.undeliverable(ledger, entry(ident, "ask"), NOW)
    assert ledger.build is None
    assert ledger.build_streak.count == 1


def test_a_grant_that_nobody_waits_for_is_given_back() -> None:
    ledger = make_ledger(ready=1)
    lease = claimed(ledger)
    ident = wait_workflow_id("api", "c1")
    news.undeliverable(ledger, entry(ident, "verdict", lease={"token": 99}), NOW)
    assert ledger.slots[lease.container].ending is None
    news.undeliverable(ledger, entry(ident, "verdict", lease={"token": lease.token}), NOW)
    assert ledger.slots[lease.container].ending is EndReason.CANCELLED


def test_another_pool_file_is_looked_at_anew_and_forgives() -> None:
    ledger = make_ledger()
    ledger.slot_streak = news.failed_again(ledger.slot_streak, FAILURE, NOW)
    request = keeper.ConfigureRequest(config=make_config(size={"min": 3, "max": 9}))
    reply = keeper.configure(ledger, request)
    assert "size.min: 2 → 3" in reply.changed
    assert ledger.look
    assert ledger.slot_streak.count == 0
    assert keeper.configure(ledger, request).changed == ()
