"""Claims over the ledger: idempotency, fencing, the queue, bounds."""

from __future__ import annotations

import pytest

from greenroom.core import keeper, leases, news, transfers
from greenroom.core.errors import (
    ClaimTooOldError,
    ConflictError,
    FencedError,
    GreenroomError,
    NoContainerError,
    NotFoundError,
    UsageError,
)
from greenroom.core.ledger import BUDGET_BYTES, Ledger
from greenroom.core.lifecycle import EndReason, State
from greenroom.core.messages import CancelClaim, ClaimRequest, ReleaseRequest, TransferRequest
from greenroom.core.pool_messages import SuspendRequest
from greenroom.core.records import Lease
from tests.builders import NOW, add_ready, make_config, make_ledger, make_news, make_request


def granted(ledger: Ledger, claim_id: str = "c1", **how: object) -> Lease:
    lease = leases.claim(ledger, make_request(claim_id, **how), NOW).lease
    assert lease is not None
    return lease


def sent(ledger: Ledger, name: str) -> list[str]:
    return [entry.workflow_id for entry in ledger.outbox if entry.name == name]


def test_a_claim_gets_a_ready_container_and_its_workflow_is_told() -> None:
    ledger = make_ledger(ready=1)
    lease = granted(ledger, ttl_s=60, holder="ci", labels={"job": "7"})
    assert lease.warm
    assert (lease.token, lease.expires_at, lease.holder) == (1, NOW + 60, "ci")
    assert ledger.slots[lease.container].state is State.CLAIMED
    assert sent(ledger, "claimed") == [lease.container_workflow]


def test_without_a_ttl_the_pools_own_counts() -> None:
    ledger = make_ledger(ready=1, config=make_config(lease={"ttl": "5m"}))
    assert granted(ledger).expires_at == NOW + 300


def test_the_same_request_gets_the_same_lease_and_another_one_is_refused() -> None:
    ledger = make_ledger(ready=2)
    first = granted(ledger, wait_s=5)
    before = ledger.model_dump_json()
    assert granted(ledger, wait_s=9) == first
    assert ledger.model_dump_json() == before
    with pytest.raises(ConflictError):
        leases.claim(ledger, make_request(ttl_s=7), NOW)
    assert ledger.model_dump_json() == before


def test_fresh_before_stale_then_the_longest_ready() -> None:
    ledger = make_ledger()
    old, first, second = (add_ready(ledger, n, NOW + n) for n in range(3))
    ledger.slots[old].fingerprint = "another"
    assert [granted(ledger, f"c{n}").container for n in range(3)] == [first, second, old]


def test_an_ending_container_is_not_given_out() -> None:
    ledger = make_ledger(ready=1)
    keeper.retire(ledger, next(iter(ledger.slots.values())), EndReason.STALE, NOW)
    with pytest.raises(NoContainerError) as caught:
        leases.claim(ledger, make_request(), NOW)
    assert caught.value.details["miss_reason"] == "pool_empty"


def test_the_queue_is_first_come_first_served_and_nobody_jumps_it() -> None:
    ledger = make_ledger()
    for n in range(3):
        reply = leases.claim(ledger, make_request(f"c{n}", wait_s=60), NOW + n)
        assert reply.queued is not None
        assert reply.queued.position == n + 1
    again = leases.claim(ledger, make_request("c1", wait_s=60), NOW + 9)
    assert again.queued is not None
    assert again.queued.position == 2
    container = add_ready(ledger, 1)
    late = leases.claim(ledger, make_request("late", wait_s=60), NOW + 10)
    assert late.outcome == "queued"
    leases.grant_waiting(ledger, NOW + 20)
    slot = ledger.slot_of("c0")
    assert slot is not None
    assert slot.container == container
    assert slot.lease is not None
    assert (slot.lease.warm, slot.lease.waited_s) == (False, 20.0)
    assert [w.request.claim_id for w in ledger.queue] == ["c1", "c2", "late"]
    assert sent(ledger, "verdict") == ["greenroom/wait/api/c0"]


def test_a_cancelled_claim_leaves_the_queue_and_its_wait_hears_why() -> None:
    ledger = make_ledger()
    leases.claim(ledger, make_request(wait_s=60), NOW)
    leases.cancel(ledger, CancelClaim(claim_id="c1", reason=EndReason.TIMED_OUT), NOW + 60)
    assert not ledger.queue
    assert ledger.outbox[-1].payload["reason"] == "timed_out"
    assert ledger.counters.refused == {"timed_out": 1}


def test_a_cancel_that_comes_after_the_grant_says_the_grant_again() -> None:
    ledger = make_ledger(ready=1)
    lease = granted(ledger)
    leases.cancel(ledger, CancelClaim(claim_id="c1"), NOW)
    assert ledger.outbox[-1].payload["lease"]["token"] == lease.token


def test_release_needs_the_token_and_is_idempotent() -> None:
    ledger = make_ledger(ready=1)
    lease = granted(ledger)
    with pytest.raises(FencedError):
        leases.release(ledger, ReleaseRequest(claim_id="c1", token=lease.token + 1), NOW)
    with pytest.raises(NotFoundError):
        leases.release(ledger, ReleaseRequest(claim_id="other", token=1), NOW)
    leases.release(ledger, ReleaseRequest(claim_id="c1", token=lease.token), NOW)
    leases.release(ledger, ReleaseRequest(claim_id="c1", token=lease.token), NOW)
    assert sent(ledger, "release") == [lease.container_workflow]
    with pytest.raises(NotFoundError, match="is ending: released"):
        leases.claim(ledger, make_request(), NOW)
    news.hear_container(ledger, make_news(lease.container, "retired", 9), NOW)
    leases.release(ledger, ReleaseRequest(claim_id="c1", token=lease.token), NOW)
    with pytest.raises(NotFoundError, match="ended: released"):
        leases.claim(ledger, make_request(), NOW)


# ── corpses ──────────────────────────────────────────────────────────────────────────────────


def corpse(lease: Lease, **how: object) -> ClaimRequest:
    told = {"corpse": lease.container, "corpse_token": lease.token}
    return make_request(lease.claim_id, **told, **how)


def test_a_corpse_is_replaced_under_a_new_token() -> None:
    ledger = make_ledger(ready=2)
    first = granted(ledger)
    second = leases.claim(ledger, corpse(first), NOW).lease
    assert second is not None
    assert second.container != first.container
    assert second.token > first.token
    assert leases.claim(ledger, corpse(first), NOW).lease == second
    assert sent(ledger, "retire") == [first.container_workflow]


def test_a_corpse_whose_end_the_keeper_has_heard_of_is_replaced_too() -> None:
    ledger = make_ledger(ready=2)
    first = granted(ledger)
    told = make_news(first.container, "retired", 9, reason="died", expires_at=first.expires_at)
    news.hear_container(ledger, told, NOW)
    with pytest.raises(NotFoundError, match="ended: died"):
        leases.claim(ledger, make_request(), NOW)
    second = leases.claim(ledger, corpse(first), NOW).lease
    assert second is not None
    assert second.container != first.container


def test_a_released_container_is_not_replaced_as_a_corpse() -> None:
    ledger = make_ledger(ready=2)
    first = granted(ledger)
    leases.release(ledger, ReleaseRequest(claim_id="c1", token=first.token), NOW)
    with pytest.raises(NotFoundError):
        leases.claim(ledger, corpse(first), NOW)
    news.hear_container(ledger, make_news(first.container, "corpse", 8), NOW)
    assert not ledger.queue
    assert len([s for s in ledger.slots.values() if s.lease]) == 1


# ── what is remembered, and bounds ───────────────────────────────────────────────────────────


def test_a_claim_older_than_the_memory_is_refused_not_granted_anew() -> None:
    ledger = make_ledger(ready=1)
    ledger.low_water = NOW
    with pytest.raises(ClaimTooOldError):
        leases.claim(ledger, make_request(issued_at=NOW - 1), NOW)
    assert leases.claim(ledger, make_request(issued_at=NOW), NOW).lease is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"claim_id": ""},
        {"claim_id": "../x"},
        {"claim_id": "x" * 101},
        {"ttl_s": -1},
        {"ttl_s": 1e9},
        {"wait_s": -1},
        {"holder": "x" * 201},
        {"labels": {"k": "x" * 1024}},
    ],
)
def test_malformed_requests_are_refused_and_change_nothing(wrong: dict[str, object]) -> None:
    ledger = make_ledger(ready=1)
    before = ledger.model_dump_json()
    with pytest.raises(UsageError):
        leases.claim(ledger, make_request(**{"claim_id": "c", **wrong}), NOW)  # type: ignore[arg-type]
    assert ledger.model_dump_json() == before


@pytest.mark.parametrize("field", ["ttl_s", "wait_s", "issued_at"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_never_enter(field: str, value: str) -> None:
    with pytest.raises(ValueError, match="finite"):
        ClaimRequest.model_validate_json(f'{{"claim_id": "c", "{field}": {value}}}')


def test_a_claim_by_signal_ends_in_its_wait_whatever_happens() -> None:
    ledger = make_ledger(ready=1)
    leases.claim_with_wait(ledger, make_request("c1"), NOW)
    leases.claim_with_wait(ledger, make_request("c2"), NOW)
    leases.claim_with_wait(ledger, make_request("c1", ttl_s=5), NOW)
    names = [
        (e.name, e.workflow_id.rpartition("/")[2]) for e in ledger.outbox if "wait" in e.workflow_id
    ]
    assert names == [
        ("Wait", "c1"),
        ("verdict", "c1"),
        ("Wait", "c2"),
        ("Wait", "c1"),
        ("verdict", "c1"),
    ]
    assert ledger.outbox[-1].payload["detail"].startswith("conflict:")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"paused": True}, "paused"),
        ({"suspended": EndReason.DOWN}, "draining"),
        ({}, "pool_empty"),
    ],
)
def test_a_miss_has_its_reason(change: dict[str, object], reason: str) -> None:
    ledger = make_ledger(**change)
    with pytest.raises(NoContainerError) as caught:
        leases.claim(ledger, make_request(), NOW)
    assert caught.value.details["miss_reason"] == reason


def test_a_suspended_pool_gives_nothing_out_and_loses_no_answer() -> None:
    ledger = make_ledger(ready=1)
    lease = granted(ledger)
    leases.claim(ledger, make_request("c2", wait_s=60), NOW)
    keeper.suspend(ledger, SuspendRequest(force=True), NOW)
    assert not ledger.queue
    assert sent(ledger, "verdict") == ["greenroom/wait/api/c2"]
    assert sent(ledger, "retire") == [lease.container_workflow]
    with pytest.raises(GreenroomError):
        leases.claim(ledger, make_request("c3", wait_s=60), NOW)


# ── what a claim brings along ────────────────────────────────────────────────────────────────

SEALED = {"T": "grs1.0123456789ab.QUJD"}
REPLY = "greenroom/task/api/c1"


def asked(**how: object) -> ClaimRequest:
    return make_request(**{"sealed": SEALED, "reply_to": REPLY, **how})


def test_a_claim_that_names_a_workflow_is_told_there_and_starts_no_wait() -> None:
    for ready in (0, 1):
        ledger = make_ledger(ready=ready)
        leases.claim_with_wait(ledger, asked(), NOW)
        if not ready:
            add_ready(ledger, 0)
            leases.claim_with_wait(ledger, asked(), NOW)
            leases.grant_waiting(ledger, NOW)
        assert sent(ledger, "verdict") == [REPLY]
        assert sent(ledger, "Wait") == []
        assert sent(ledger, "claimed") != []


def test_a_refusal_and_a_cancelling_are_told_there_too() -> None:
    ledger = make_ledger()
    leases.claim_with_wait(ledger, asked(ttl_s=-1), NOW)
    assert ledger.outbox[-1].payload["code"] == "usage"
    leases.cancel(ledger, CancelClaim(claim_id="unknown", reply_to=REPLY), NOW)
    assert sent(ledger, "verdict") == [REPLY, REPLY]


def test_what_it_brings_follows_it_to_the_next_container_and_is_told_of_its_end() -> None:
    ledger = make_ledger(ready=2)
    first = granted(ledger, sealed=SEALED, reply_to=REPLY)
    leases.regrant(ledger, ledger.slots[first.container], NOW)
    second = ledger.slot_of("c1")
    assert second is not None
    assert second.container != first.container
    assert second.brought == asked().brought()
    ledger.suspended = EndReason.DOWN
    leases.regrant(ledger, second, NOW)
    assert sent(ledger, "ended") == [REPLY]


def test_a_grant_whose_workflow_is_gone_is_given_back() -> None:
    ledger = make_ledger(ready=1)
    leases.claim_with_wait(ledger, asked(), NOW)
    (verdict,) = [one for one in ledger.outbox if one.name == "verdict"]
    news.undeliverable(ledger, verdict, NOW)
    (slot,) = ledger.slots.values()
    assert slot.ending is EndReason.CANCELLED


def test_a_container_cannot_be_named_to_lose_its_slot() -> None:
    ledger = make_ledger(ready=2)
    other = granted(ledger, "other")
    leases.claim_with_wait(ledger, asked(reply_to=other.container_workflow), NOW)
    (verdict,) = [one for one in ledger.outbox if one.name == "verdict"]
    news.undeliverable(ledger, verdict, NOW)
    assert other.container in ledger.slots


def test_sealed_values_of_all_claims_together_are_bounded() -> None:
    ledger = make_ledger(ready=30)
    big = {"T": "grs1.0123456789ab." + "A" * 16000}
    for number in range(24):
        granted(ledger, f"c{number}", sealed=big)
    with pytest.raises(UsageError, match="host in the place of sealed values"):
        granted(ledger, "c24", sealed=big)
    granted(ledger, "plain", reply_to=REPLY)
    ledger.outbox.clear()
    assert ledger.size_bytes() < BUDGET_BYTES
    leases.regrant(ledger, ledger.slots[granted(ledger, "c0", sealed=big).container], NOW)
    assert ledger.slot_of("c0") is not None  # it may keep what it has
    assert Ledger.model_validate_json(ledger.model_dump_json()) == ledger


def test_each_member_of_a_group_brings_the_same_and_keeps_it() -> None:
    ledger = make_ledger(ready=3)
    leases.claim_with_wait(ledger, asked(count=2), NOW)
    (verdict,) = [one for one in ledger.outbox if one.name == "verdict"]
    assert verdict.workflow_id == REPLY
    assert len(verdict.payload["leases"]) == 2
    first = ledger.slot_of("c1.1")
    assert first is not None
    leases.regrant(ledger, first, NOW)
    for member in ("c1.1", "c1.2"):
        slot = ledger.slot_of(member)
        assert slot is not None
        assert slot.brought == asked().brought()
    assert sent(ledger, "verdict") == [REPLY, REPLY]
    assert sent(ledger, "Wait") == []
    assert leases.claim(ledger, asked(count=2), NOW).leases
    big = {"T": "grs1.0123456789ab." + "A" * 16000}
    large = make_config(size={"min": 1, "max": 30})
    with pytest.raises(UsageError, match="carry"):
        leases.claim(make_ledger(config=large), asked(sealed=big, count=30), NOW)


@pytest.mark.parametrize("waiting", [False, True], ids=["live", "waiting"])
def test_a_claim_with_other_secrets_is_another_claim(waiting: bool) -> None:
    ledger = make_ledger(ready=0 if waiting else 1)
    told = {"wait_s": 60, "host_secrets": ("KEY",)}
    leases.claim(ledger, asked(**told), NOW)
    with pytest.raises(ConflictError, match="sealed differs") as caught:
        leases.claim(ledger, asked(**told, sealed={"T": SEALED["T"] + "Q"}), NOW)
    assert caught.value.details["differs"] == "sealed"
    with pytest.raises(ConflictError, match="host_secrets is"):
        leases.claim(ledger, asked(wait_s=60), NOW)
    assert leases.claim(ledger, asked(**told, reply_to=""), NOW).outcome


def test_the_workflow_that_claimed_keeps_its_lease_and_owes_no_heartbeat() -> None:
    ledger = make_ledger(ready=1, config=make_config(lease={"heartbeat": 30}))
    lease = granted(ledger, reply_to=REPLY)
    assert lease.heartbeat_s == 0
    with pytest.raises(UsageError, match="cannot be transferred"):
        transfers.check(ledger, TransferRequest(claim_id="c1", token=lease.token, holder="eve"))
    leases.cancel(ledger, CancelClaim(claim_id="c1"), NOW)
    assert sent(ledger, "verdict") == [REPLY]


def test_a_claim_that_brings_nothing_is_what_it_was() -> None:
    ledger = make_ledger(ready=1)
    lease = granted(ledger, brings=True)
    assert ledger.slots[lease.container].brought is None
    ledger.outbox.clear()
    assert "brought" not in ledger.model_dump_json()
