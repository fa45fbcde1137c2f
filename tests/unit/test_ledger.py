"""The ledger: its budget, what it remembers, and that it survives continue-as-new."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenroom.core import keeper, leases
from greenroom.core.ledger import BUDGET_BYTES, SEGMENT, SEGMENTS, Ledger, claim_key
from greenroom.core.lifecycle import EndReason
from greenroom.core.names import ulid
from tests.builders import NOW, make_config, make_ledger, make_request


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


def test_the_budget_is_kept_by_forgetting_ended_claims_only() -> None:
    ledger = make_ledger(config=make_config(size={"min": 400, "max": 1000}))
    ids = iter([ulid(NOW, n) for n in range(400)])
    keeper.enact(ledger, keeper.plan.Provision(400), NOW, ids)
    ledger.outbox.clear()
    for slot in ledger.slots.values():
        slot.state = keeper.State.READY
    for n in range(400):
        leases.claim(ledger, make_request(f"live-{n}", holder="h" * 100), NOW)
        ledger.outbox.clear()
    remember(ledger, 5000)
    assert ledger.size_bytes() > BUDGET_BYTES
    ledger.fit_budget()
    assert ledger.size_bytes() <= BUDGET_BYTES
    assert all(ledger.slot_of(f"live-{n}") is not None for n in range(400))
    assert ledger.low_water > NOW


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
