"""Groups of claims: their members' ids, asking again, and members whose containers died."""

from __future__ import annotations

import pytest

from greenroom.core import leases, news
from greenroom.core.errors import ConflictError, NotFoundError, UsageError
from greenroom.core.ledger import Ledger
from greenroom.core.messages import CancelClaim, ReleaseRequest, WaitVerdict
from greenroom.core.records import Lease
from greenroom.core.requests import CARGO_BYTES
from tests.builders import NOW, add_ready, make_config, make_ledger, make_news, make_request


def group(ledger: Ledger, claim_id: str = "g", count: int = 3, **how: object) -> tuple[Lease, ...]:
    return leases.claim(ledger, make_request(claim_id, count=count, **how), NOW).leases


def test_members_are_claims_of_their_own() -> None:
    ledger = make_ledger(ready=3)
    granted = group(ledger, holder="ci")
    assert [lease.claim_id for lease in granted] == ["g.1", "g.2", "g.3"]
    assert len({lease.container for lease in granted}) == 3
    assert {(lease.group, lease.group_size, lease.holder) for lease in granted} == {("g", 3, "ci")}
    assert [e.workflow_id for e in ledger.outbox if e.name == "claimed"] == [
        lease.container_workflow for lease in granted
    ]
    assert (ledger.counters.warm, ledger.counters.misses) == (3, {})


def test_asking_again_gets_the_live_members_and_changes_nothing() -> None:
    ledger = make_ledger(ready=3)
    first = group(ledger)
    before = ledger.model_dump_json()
    assert group(ledger) == first
    assert ledger.model_dump_json() == before
    release = ReleaseRequest(claim_id="g.2", token=first[1].token)
    leases.release(ledger, release, NOW)
    assert group(ledger) == (first[0], first[2])
    for number, lease in enumerate(first):
        told = make_news(lease.container, "retired", 9, reason="released", expires_at=NOW)
        news.hear_container(ledger, told, NOW)
        if number < 2:
            assert group(ledger) == (first[2],)
    with pytest.raises(NotFoundError, match="ended: released"):
        group(ledger)


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ({"claim_id": "x", "count": 3}, {"claim_id": "x.2"}),
        ({"claim_id": "x", "count": 3}, {"claim_id": "x.3", "count": 2}),
        ({"claim_id": "x.2"}, {"claim_id": "x", "count": 2}),
        ({"claim_id": "x.2", "count": 2}, {"claim_id": "x", "count": 2}),
        ({"claim_id": "x"}, {"claim_id": "x", "count": 2}),
        ({"claim_id": "x", "count": 2}, {"claim_id": "x"}),
    ],
)
@pytest.mark.parametrize("ready", [0, 6], ids=["queued", "live"])
def test_an_id_is_never_a_member_and_something_else(
    known: dict[str, object], asked: dict[str, object], ready: int
) -> None:
    ledger = make_ledger(ready=ready)
    leases.claim(ledger, make_request(**{"wait_s": 9, **known}), NOW)  # type: ignore[arg-type]
    before = ledger.model_dump_json()
    with pytest.raises(ConflictError):
        leases.claim(ledger, make_request(**{"wait_s": 9, **asked}), NOW)  # type: ignore[arg-type]
    assert ledger.model_dump_json() == before


def test_ids_that_only_look_like_members_are_free() -> None:
    ledger = make_ledger(ready=7)
    group(ledger, "x", 2)
    for claim_id in ("x.3", "x.01", "x.0", "y.1", "x.1.1"):
        assert leases.claim(ledger, make_request(claim_id), NOW).lease is not None


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"holder": "b"}, "holder is 'a' there and 'b' here"),
        ({"ttl_s": 7.5}, "ttl_s is 60 there and 7.5 here"),
        ({"labels": {}}, "labels is {'k': 'v'} there and {} here"),
        ({"priority": 3}, "priority is 0 there and 3 here"),
        ({"count": 2}, "count is 1 there and 2 here"),
        ({"holder": "", "ttl_s": 0}, "holder is 'a' there and '' here; ttl_s is 60 there and 0 he"),
    ],
)
@pytest.mark.parametrize("ready", [0, 1], ids=["queued", "live"])
def test_another_request_under_one_id_is_told_what_differs(
    other: dict[str, object], told: str, ready: int
) -> None:
    ledger = make_ledger(ready=ready)
    same = {"holder": "a", "ttl_s": 60, "labels": {"k": "v"}, "wait_s": 5}
    leases.claim(ledger, make_request("c", **same), NOW)
    ledger = Ledger.model_validate_json(ledger.model_dump_json())
    with pytest.raises(ConflictError) as caught:
        leases.claim(ledger, make_request("c", **{**same, **other}), NOW)
    assert told in caught.value.message


# ── the dead ─────────────────────────────────────────────────────────────────────────────────


def again(ledger: Ledger, lease: Lease, number: int) -> Lease | None:
    dead = {"corpse": lease.container, "corpse_token": lease.token, "member": number}
    return leases.claim(ledger, make_request("g", count=3, **dead), NOW).lease


def test_a_dead_member_alone_is_replaced_whoever_notices() -> None:
    ledger = make_ledger(ready=4)
    first = group(ledger)
    fresh = again(ledger, first[1], 2)
    assert fresh is not None
    assert (fresh.claim_id, fresh.group, fresh.group_size) == ("g.2", "g", 3)
    assert fresh.token > first[2].token
    assert again(ledger, first[1], 2) == fresh  # its answer was lost
    assert group(ledger) == (first[0], fresh, first[2])
    news.hear_container(ledger, make_news(first[0].container, "corpse", 8), NOW)
    assert group(ledger) == (fresh, first[2])
    waiting = ledger.queue[0]
    assert (waiting.request.claim_id, waiting.group, waiting.head) == ("g.1", "g", True)
    queued = leases.claim(ledger, make_request("g", count=3, member=1, wait_s=9), NOW).queued
    assert queued is not None
    assert (queued.wait_workflow, queued.miss_reason) == ("greenroom/wait/api/g.1", "host_lost")
    add_ready(ledger, 9)
    leases.grant_waiting(ledger, NOW)
    assert [lease.claim_id for lease in group(ledger)] == ["g.1", "g.2", "g.3"]


def test_only_a_dead_container_of_the_claim_goes_to_the_head_of_the_line() -> None:
    ledger = make_ledger()
    leases.claim(ledger, make_request("first", wait_s=9), NOW)
    forged = make_request("second", wait_s=9, corpse="K1", corpse_token=7)
    reply = leases.claim(ledger, forged, NOW)
    assert reply.queued is not None
    assert reply.queued.position == 2
    with pytest.raises(NotFoundError):
        leases.claim(ledger, make_request("never", count=3, member=2, wait_s=9), NOW)


# ── its Wait ─────────────────────────────────────────────────────────────────────────────────


def test_a_groups_wait_hears_of_all_and_gives_all_back_when_it_is_gone() -> None:
    ledger = make_ledger()
    leases.claim(ledger, make_request("g", count=2, wait_s=9), NOW)
    for number in range(2):
        add_ready(ledger, number)
    leases.grant_waiting(ledger, NOW)
    entry = ledger.outbox[-1]
    verdict = WaitVerdict.model_validate(entry.payload)
    assert [lease.claim_id for lease in verdict.granted()] == ["g.1", "g.2"]
    leases.cancel(ledger, CancelClaim(claim_id="g"), NOW)
    assert WaitVerdict.model_validate(ledger.outbox[-1].payload).granted() == verdict.leases
    news.undeliverable(ledger, entry, NOW)
    assert all(slot.ending == "cancelled" for slot in ledger.slots.values())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"count": 0}, "count 0"),
        ({"count": 11}, "size.max is 10"),
        ({"count": 2, "member": 3}, "member 3"),
        ({"count": 2, "claim_id": "x" * 99}, "100 at most"),
        ({"priority": 101}, "within -100 and 100"),
    ],
)
def test_wrong_groups_are_refused(wrong: dict[str, object], told: str) -> None:
    ledger = make_ledger(ready=1)
    with pytest.raises(UsageError, match=told):
        leases.check_request(ledger, make_request(**{"claim_id": "c", **wrong}))  # type: ignore[arg-type]


def test_what_claims_carry_is_bounded_together() -> None:
    ledger = make_ledger(ready=1, config=make_config(size={"min": 1, "max": 1000}))
    labels = {"k": "x" * 900}
    leases.claim(ledger, make_request("g", count=400, labels=labels, wait_s=9), NOW)
    with pytest.raises(UsageError, match=f"may carry {CARGO_BYTES}"):
        leases.claim(ledger, make_request("h", count=100, labels=labels, wait_s=9), NOW)
    leases.claim(ledger, make_request("plain", labels={"k": "v"}, wait_s=9), NOW)
