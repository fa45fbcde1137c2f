"""A lease that goes to another holder: the keeper's side, over a ledger."""

from __future__ import annotations

import pytest

from greenroom.core import leases, news, transfers
from greenroom.core.errors import FencedError, NotFoundError, UsageError
from greenroom.core.ledger import Ledger, OutboxEntry
from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import (
    ClaimRequest,
    ContainerNews,
    ReleaseRequest,
    TransferRequest,
)
from greenroom.core.records import Lease
from tests.builders import NOW, make_ledger

CLAIM = ClaimRequest(claim_id="a", holder="ada")


@pytest.fixture
def ledger() -> Ledger:
    return make_ledger(ready=2)


def granted(ledger: Ledger) -> Lease:
    reply = leases.claim(ledger, CLAIM, NOW)
    assert reply.lease is not None
    return reply.lease


def to(holder: str, token: int) -> TransferRequest:
    return TransferRequest(claim_id="a", token=token, holder=holder)


def test_a_transfer_keeps_the_container_and_tells_it_of_the_new_token(ledger: Ledger) -> None:
    lease = granted(ledger)
    passed = transfers.transfer(ledger, to("bob", lease.token)).lease
    assert passed.token > lease.token
    assert passed.model_dump(exclude={"token", "holder"}) == lease.model_dump(
        exclude={"token", "holder"}
    )
    told = [entry.payload["lease"] for entry in ledger.outbox if entry.name == "claimed"]
    assert [(one["token"], one["holder"]) for one in told] == [
        (lease.token, "ada"),
        (passed.token, "bob"),
    ]


def test_the_same_transfer_again_gets_the_same_answer_and_tells_nobody(ledger: Ledger) -> None:
    lease = granted(ledger)
    first = transfers.transfer(ledger, to("bob", lease.token))
    sent = len(ledger.outbox)
    assert transfers.transfer(ledger, to("bob", lease.token)) == first
    assert len(ledger.outbox) == sent
    for other in (to("eve", lease.token), to("bob", 0), to("bob", first.lease.token + 1)):
        with pytest.raises(FencedError):
            transfers.transfer(ledger, other)


def test_the_old_token_releases_nothing_and_the_first_request_gets_no_answer_any_more(
    ledger: Ledger,
) -> None:
    lease = granted(ledger)
    passed = transfers.transfer(ledger, to("bob", lease.token)).lease
    with pytest.raises(FencedError):
        leases.release(ledger, ReleaseRequest(claim_id="a", token=lease.token), NOW)
    with pytest.raises(FencedError, match="bob"):
        leases.claim(ledger, CLAIM, NOW)
    again = transfers.transfer(ledger, to("cid", passed.token)).lease
    with pytest.raises(FencedError):
        transfers.transfer(ledger, to("bob", lease.token))
    leases.release(ledger, ReleaseRequest(claim_id="a", token=again.token), NOW)


def test_what_has_ended_or_is_ending_goes_to_nobody(ledger: Ledger) -> None:
    with pytest.raises(NotFoundError):
        transfers.transfer(ledger, to("bob", 1))
    lease = granted(ledger)
    with pytest.raises(UsageError):
        transfers.transfer(ledger, to("", lease.token))
    leases.release(ledger, ReleaseRequest(claim_id="a", token=lease.token), NOW)
    with pytest.raises(NotFoundError, match="ending: released"):
        transfers.transfer(ledger, to("bob", lease.token))


def test_a_transferred_lease_whose_container_is_gone_gets_no_other(ledger: Ledger) -> None:
    """Its holder has worked in it: another container would pretend that nothing was lost.

    What it says of its own end counts; one that says nothing is asked past the lease's time.
    """
    lease = granted(ledger)
    transfers.transfer(ledger, to("bob", lease.token))
    entry: OutboxEntry = next(e for e in reversed(ledger.outbox) if e.name == "claimed")
    news.undeliverable(ledger, entry, NOW)
    assert ledger.slot_of("a") is not None
    asked = entry.model_copy(update={"name": "ask", "payload": {"seq": 9}})
    news.undeliverable(ledger, asked, NOW)
    assert ledger.slot_of("a") is None
    ended = ledger.find_ended("a")
    assert ended == (lease.container, EndReason.LOST)


def test_the_end_that_a_container_tells_after_a_transfer_ends_it_for_the_next_holder(
    ledger: Ledger,
) -> None:
    lease = granted(ledger)
    passed = transfers.transfer(ledger, to("bob", lease.token)).lease
    told = ContainerNews(
        container=lease.container, seq=99, kind="ending", at=NOW, reason=EndReason.ABANDONED
    )
    news.hear_container(ledger, told, NOW)
    with pytest.raises(NotFoundError, match="ending: abandoned"):
        transfers.transfer(ledger, to("cid", passed.token))
