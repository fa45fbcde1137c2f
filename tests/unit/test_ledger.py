"""The ledger: its budget, what it remembers, and that it survives continue-as-new."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.core import keeper, leases, news
from greenroom.core.errors import ClaimTooOldError
from greenroom.core.ledger import BUDGET_BYTES, SEGMENT, SEGMENTS, Ledger, claim_key
from greenroom.core.lifecycle import EndReason, State
from greenroom.core.names import ulid
from tests.builders import NOW, add_ready, make_config, make_ledger, make_request


def remember(ledger: Ledger, number: int, first: int = 0) -> None:
    for n in range(first, first + number):
        ledger.remember_ended(f"claim-{n}", ulid(NOW, n), EndReason.RELEASED, NOW + n)


@given(st.text("abc-", min_size=1, max_size=8), st.sampled_from(EndReason))
def test_an_ended_claim_is_remembered_as_it_ended(claim: str, reason: EndReason) -> None:
    ledger = make_ledger()
    ledger.remember_ended(claim, ulid(NOW, 1), reason, NOW)
    assert ledger.find_ended(claim) == (ulid(NOW, 1), reason)
    assert ledger.find_ended(claim + "x") is None


def test_the_latest_end_of_an_id_counts() -> None:
    ledger = make_ledger()
    ledger.remember_ended("c", "K1", EndReason.DIED, NOW)
    remember(ledger, SEGMENT)
    ledger.remember_ended("c", "K2", EndReason.RELEASED, NOW)
    assert ledger.find_ended("c") == ("K2", EndReason.RELEASED)


def test_ended_claims_take_at_most_48_bytes_each() -> None:
    ledger = make_ledger()
    empty = ledger.size_bytes()
    remember(ledger, SEGMENT)
    assert (ledger.size_bytes() - empty) / SEGMENT <= 48


def test_memory_is_bounded_and_what_is_forgotten_raises_the_low_water_mark() -> None:
    ledger = make_ledger()
    remember(ledger, SEGMENT * SEGMENTS + 1)
    assert len(ledger.ended) == SEGMENTS
    assert ledger.low_water == NOW + SEGMENT - 1
    assert ledger.find_ended("claim-0") is None
    assert ledger.find_ended(f"claim-{SEGMENT}") is not None


def test_a_thousand_live_leases_fit_the_budget_and_only_ended_ones_are_forgotten() -> None:
    ledger = make_ledger(config=make_config(size={"min": 1000, "max": 1000}))
    for n in range(1000):
        slot = ledger.slots[add_ready(ledger, n << 60, NOW + n + 0.123456)]
        slot.host, slot.docker_id, slot.seen_seq = "build-host-17.example", f"{n:064x}", 3
    for n in range(1000):
        labels = {"task": f"{n:08}", "team": "search"}
        request = make_request(f"agent-{n:020}", ttl_s=7200, holder="agents-7", labels=labels)
        leases.claim(ledger, request, NOW + 2000.654321 + n)
        ledger.outbox.clear()
    assert ledger.size_bytes() <= BUDGET_BYTES
    remember(ledger, 5000)
    assert ledger.size_bytes() > BUDGET_BYTES
    ledger.fit_budget()
    assert ledger.size_bytes() <= BUDGET_BYTES
    assert ledger.low_water > NOW
    again = Ledger.model_validate_json(ledger.model_dump_json())
    assert again == ledger
    assert len(keeper.live_claims(again)) == 1000


def test_a_hundred_thousand_claims_leave_no_more_behind_than_the_memory_holds() -> None:
    ledger = make_ledger(ready=1)
    sizes = []
    for n in range(100_000):
        now = NOW + n
        lease = leases.claim(ledger, make_request(f"claim-{n}", issued_at=now), now).lease
        assert lease is not None
        slot = ledger.slots[lease.container]
        news.remove_slot(ledger, slot, EndReason.RELEASED, now)
        fresh = slot.model_copy(
            update={"container": ulid(now, n), "state": State.READY, "lease": None, "since": now}
        )
        ledger.slots[fresh.container] = fresh
        ledger.outbox.clear()
        if n % SEGMENT == 0:
            sizes.append(ledger.size_bytes())
    assert max(sizes) <= BUDGET_BYTES
    assert max(sizes[SEGMENTS:]) <= 1.01 * sizes[SEGMENTS]
    assert ledger.last_token == 100_000
    with pytest.raises(ClaimTooOldError):
        leases.claim(ledger, make_request("claim-0", issued_at=NOW), NOW + 100_000)


def test_a_ledger_that_an_earlier_version_wrote_is_read() -> None:
    ledger = make_ledger(ready=2)
    lease = leases.claim(ledger, make_request(ttl_s=60), NOW).lease
    old = ledger.model_dump(mode="json")
    old["slots"] = {
        name: {**slot.model_dump(mode="json", exclude={"asked"}), "request_hash": "0" * 16}
        for name, slot in ledger.slots.items()
    }
    waiting = {"request": make_request("c2").model_dump(mode="json"), "request_hash": "0" * 16}
    old["queue"] = [{**waiting, "since": NOW, "miss_reason": "pool_empty"}]
    again = Ledger.model_validate(old)
    assert leases.claim(again, make_request(ttl_s=60), NOW).lease == lease
    assert leases.claim(again, make_request("c2", wait_s=1), NOW).outcome == "queued"


def test_size_is_that_of_the_payload_in_bytes() -> None:
    ledger = make_ledger(ready=1)
    leases.claim(ledger, make_request(labels={"ü": "✓" * 20}), NOW)
    assert ledger.size_bytes() == len(ledger.model_dump_json().encode())


@given(st.integers(0, 3), st.integers(0, 3), st.booleans())
@settings(max_examples=30)
def test_a_ledger_is_the_same_after_continue_as_new(ready: int, claims: int, paused: bool) -> None:
    ledger = make_ledger(ready=ready, paused=paused)
    for n in range(claims):
        leases.claim(ledger, make_request(f"c{n}", wait_s=60, labels={"a": "b"}), NOW)
    again = Ledger.model_validate_json(ledger.model_dump_json())
    assert again == ledger
    assert again.next_token() == ledger.next_token()


def test_tokens_grow() -> None:
    ledger = make_ledger()
    tokens = [ledger.next_token() for _ in range(5)]
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize(
    ("change", "fresh"),
    [
        ({}, True),
        ({"size": {"min": 1, "max": 9}}, True),
        ({"lease": {"ttl": "5m"}}, True),
        ({"limits": {"pids": 99}}, False),
        ({"network": {"task": ["api.example.com"]}}, False),
        ({"env": {"A": "1"}}, False),
        ({"trust_host_ca": True}, False),
    ],
)
def test_a_container_is_stale_when_another_would_be_made_now(
    change: dict[str, object], fresh: bool
) -> None:
    ledger = make_ledger(ready=1)
    ledger.config = make_config(**change)
    assert ledger.is_fresh(next(iter(ledger.slots.values()))) is fresh


def test_claim_keys_are_short_and_differ() -> None:
    keys = {claim_key(f"claim-{n}") for n in range(10_000)}
    assert len(keys) == 10_000
    assert {len(key) for key in keys} == {10}
