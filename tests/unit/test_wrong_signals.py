"""Signals that nobody checked before: whatever they say, the keeper can send what it posts."""

from __future__ import annotations

import pytest

from greenroom.core import leases, news
from greenroom.core.errors import ConflictError, UsageError
from greenroom.core.ledger import Ledger, OutboxEntry
from greenroom.core.messages import CancelClaim, WaitInput, WaitVerdict
from greenroom.core.names import WORKFLOW_ID_BYTES, container_workflow_id, wait_workflow_id
from greenroom.core.requests import LONGEST_WAIT_S
from tests.builders import NOW, make_ledger, make_request


@pytest.fixture
def ledger() -> Ledger:
    return make_ledger(ready=1)


def verdicts(ledger: Ledger) -> list[WaitVerdict]:
    return [
        WaitVerdict.model_validate(entry.payload)
        for entry in ledger.outbox
        if entry.name == "verdict"
    ]


@pytest.mark.parametrize("wrong", [{"claim_id": "a" * 2000}, {"reply_to": "é" * 600}])
def test_nothing_is_posted_to_an_id_that_temporal_refuses(
    ledger: Ledger, wrong: dict[str, str]
) -> None:
    """Such a command would fail the keeper's workflow task for ever."""
    with pytest.raises(UsageError):
        leases.claim_with_wait(ledger, make_request(**wrong), NOW)
    with pytest.raises(UsageError):
        leases.cancel(ledger, CancelClaim.model_validate({"claim_id": "a", **wrong}), NOW)
    assert not ledger.outbox


@pytest.mark.parametrize("wrong", [{"labels": {"a": "x" * 1_900_000}}, {"wait_s": 1e14}])
def test_the_wait_of_a_refused_claim_gets_nothing_that_is_out_of_bounds(
    ledger: Ledger, wrong: dict[str, object]
) -> None:
    leases.claim_with_wait(ledger, make_request("a", **wrong), NOW)
    started = [WaitInput.model_validate(e.payload) for e in ledger.outbox if e.kind == "start"]
    assert [one.request.claim_id for one in started] == ["a"]
    assert 0 < started[0].request.wait_s <= LONGEST_WAIT_S
    assert all(len(str(entry.payload)) < 2000 for entry in ledger.outbox)
    assert [verdict.code for verdict in verdicts(ledger)] == ["usage"]


def test_another_request_does_not_end_the_wait_of_the_claim_that_waits() -> None:
    ledger = make_ledger()
    leases.claim_with_wait(ledger, make_request("a", holder="ada"), NOW)
    with pytest.raises(ConflictError):
        leases.claim_with_wait(ledger, make_request("a", holder="eve"), NOW)
    assert not verdicts(ledger)
    elsewhere = make_request("a", holder="eve", reply_to="their/own")
    leases.claim_with_wait(ledger, elsewhere, NOW)
    assert [e.workflow_id for e in ledger.outbox if e.name == "verdict"] == ["their/own"]
    assert len(ledger.queue) == 1


def test_a_wait_id_that_just_fits_is_told(ledger: Ledger) -> None:
    room = WORKFLOW_ID_BYTES - len(wait_workflow_id(ledger.pool, ""))
    leases.claim_with_wait(ledger, make_request("a" * room), NOW)
    assert [verdict.code for verdict in verdicts(ledger)] == ["usage"]


def test_an_unknown_receiver_elsewhere_costs_no_container_here(ledger: Ledger) -> None:
    """``reply_to`` is anybody's choice, also the name of a container with another pool's path."""
    [container] = ledger.slots
    gone = OutboxEntry(
        id=1,
        kind="signal",
        workflow_id=container_workflow_id("other", container),
        name="ended",
    )
    news.undeliverable(ledger, gone, NOW)
    assert list(ledger.slots) == [container]
