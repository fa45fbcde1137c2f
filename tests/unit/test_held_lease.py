"""The lease of a container's workflow: tokens, and what a transfer leaves as it was."""

from __future__ import annotations

import pytest
from temporalio.exceptions import ApplicationError

from greenroom.core.config import LeaseTerms
from greenroom.core.messages import ExtendReply
from greenroom.core.orders import LastBeat
from greenroom.core.records import Lease
from tests.builders import NOW
from workflows.held_lease import HeldLease


def lease(token: int, **changes: object) -> Lease:
    facts = {
        "claim_id": "a", "pool": "p", "container": "c", "container_workflow": "w", "host": "h",
        "commit": "1", "fingerprint": "f", "snapshot_age_s": 0, "warm": True, "waited_s": 0,
        "granted_at": NOW, "expires_at": NOW + 60, "token": token,
    }  # fmt: skip
    return Lease.model_validate({**facts, **changes})


def held(**terms: object) -> HeldLease:
    one = HeldLease(LeaseTerms.model_validate(terms))
    assert one.take(lease(5, heartbeat_s=10), NOW)
    return one


def test_only_a_newer_token_is_taken() -> None:
    one = held()
    assert not one.take(lease(5, holder="eve"), NOW)
    assert not one.take(lease(4, holder="eve"), NOW)
    assert one.take(lease(6, holder="bob"), NOW)
    assert one.lease is not None
    assert one.lease.holder == "bob"


def test_a_token_that_may_be_on_its_way_is_let_through_at_the_door_and_nowhere_else() -> None:
    one = held()
    one.check_token(6, newer=True)
    for token, newer in ((6, False), (4, True), (4, False)):
        with pytest.raises(ApplicationError) as caught:
            one.check_token(token, newer=newer)
        assert caught.value.type == "fenced"
    assert (one.knows(5), one.knows(6)) == (True, False)


def test_a_transfer_keeps_end_and_hold_and_has_to_be_armed() -> None:
    one = held()
    assert one.lease is not None
    one.arm(one.lease)
    one.lengthen(one.lease, ExtendReply(expires_at=NOW + 900, held=True))
    one.take(lease(6, heartbeat_s=10), NOW)
    assert (one.lease.expires_at, one.lease.held) == (NOW + 900, True)
    assert (one.armed, one.served) == (False, True)


def test_a_transfer_begins_the_heartbeat_anew() -> None:
    one = held(grace=5)
    one.take(lease(6, heartbeat_s=10), NOW + 14)
    assert one.hear_beat(LastBeat(age_s=14), NOW + 15)
    assert not one.hear_beat(LastBeat(age_s=29), NOW + 29)
