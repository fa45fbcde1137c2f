"""Claims that wait, are refused, are cancelled, or come by Signal."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import ClaimRequest, LeaseQuery
from tests.workflows.pools import Pool, refused
from workflows.pool import PoolKeeper


async def test_a_queued_claim_gets_its_lease_as_the_result_of_its_wait(pool: Pool) -> None:
    install = pool.host.gate("install_in")
    await pool.configure()
    reply = await pool.claim("a", wait_s=60, holder="ci", labels={"job": "7"})
    assert (reply.outcome, reply.lease) == ("queued", None)
    assert reply.queued is not None
    assert (reply.queued.position, reply.queued.miss_reason) == (1, "pool_empty")
    assert reply.queued.wait_workflow == pool.wait("a").id
    second = await pool.claim("b", wait_s=60)
    assert second.queued is not None
    assert second.queued.position == 2
    assert (await pool.claim("a", wait_s=60, holder="ci", labels={"job": "7"})) == reply
    assert (await pool.status()).target == 4
    install.set()
    verdict = await pool.verdict("a")
    assert verdict.lease is not None
    lease = verdict.lease
    assert (lease.claim_id, lease.holder, lease.labels) == ("a", "ci", {"job": "7"})
    assert (lease.warm, lease.miss_reason) == (False, "pool_empty")
    other = await pool.verdict("b")
    assert other.lease is not None
    assert other.lease.container != lease.container
    assert lease.token < other.lease.token
    await pool.until_armed(lease)
    status = await pool.until_ready(2)
    assert (status.claims_warm, status.claims_cold, status.misses) == (0, 2, {"pool_empty": 2})


async def test_a_claim_that_does_not_wait_is_refused_with_the_reason(full: Pool) -> None:
    full.host.gate("install_in")
    await full.grant("a")
    await full.grant("b")
    with refused("no_container") as found:
        await full.claim("c")
    assert found[0].details[0]["miss_reason"] == "pool_empty"
    await full.keeper.signal(PoolKeeper.pause)
    with refused("no_container") as found:
        await full.claim("c")
    assert found[0].details[0]["miss_reason"] == "paused"
    assert (await full.status()).claims_refused == {"pool_empty": 1, "paused": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"claim_id": "../a"},
        {"claim_id": "a", "ttl_s": 86401},
        {"claim_id": "a", "ttl_s": -1},
        {"claim_id": "a", "wait_s": -1},
        {"claim_id": "a", "holder": "h" * 201},
    ],
)
async def test_a_malformed_claim_leaves_no_event(full: Pool, wrong: dict[str, object]) -> None:
    before = (await full.keeper.describe()).history_length
    with refused("usage"):
        await full.keeper.execute_update(PoolKeeper.claim, ClaimRequest.model_validate(wrong))
    assert (await full.keeper.describe()).history_length == before


async def test_a_wait_that_times_out_leaves_the_queue(pool: Pool) -> None:
    pool.host.gate("install_in")
    await pool.configure()
    await pool.claim("a", wait_s=0.2)
    verdict = await pool.verdict("a")
    assert (verdict.lease, verdict.reason) == (None, EndReason.TIMED_OUT)
    assert "pool_empty" in verdict.detail
    status = await pool.status()
    assert (status.queue, status.claims_refused) == (0, {"timed_out": 1})


async def test_cancelling_a_wait_cancels_its_claim(pool: Pool) -> None:
    install = pool.host.gate("install_in")
    await pool.configure()
    await pool.claim("a", wait_s=600)
    await pool.claim("b", wait_s=600)
    await pool.wait("a").cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await pool.verdict("a")
    assert isinstance(caught.value.cause, CancelledError)
    status = await pool.status()
    assert (status.queue, status.claims_refused) == (1, {"cancelled": 1})
    install.set()
    assert (await pool.verdict("b")).lease is not None
    status = await pool.until_ready(2)
    assert status.counts.claimed == 1


async def test_a_grant_that_crosses_the_cancelling_of_its_wait_is_given_back(pool: Pool) -> None:
    install = pool.host.gate("install_in")
    await pool.configure()
    await pool.claim("a", wait_s=600)
    await pool.until_true(lambda: len(pool.host.subjects("install_in")) >= 3)
    await pool.workers.stop()
    install.set()
    await pool.wait("a").cancel()
    await pool.workers.start()
    with pytest.raises(WorkflowFailureError):
        await pool.verdict("a")
    status = await pool.until(lambda s: s.counts.ready >= 2 and s.counts.claimed == 0)
    assert status.queue == 0


async def test_a_claim_by_signal_is_answered_by_its_wait(full: Pool) -> None:
    full.host.gate("install_in")
    for claim_id in ("a", "b", "c"):
        await full.keeper.signal("claim", ClaimRequest(claim_id=claim_id))
    first, second = await full.verdict("a"), await full.verdict("b")
    assert first.lease is not None
    assert second.lease is not None
    assert first.lease.container != second.lease.container
    assert (await full.status()).queue == 1  # c waits, though it did not say how long
    held = await full.keeper.query(PoolKeeper.lease, LeaseQuery(claim_id="a"))
    assert held == first.lease


async def test_a_claim_by_signal_that_is_wrong_is_answered_too(full: Pool) -> None:
    await full.grant("a")
    await full.keeper.signal("claim", ClaimRequest(claim_id="a", holder="other"))
    verdict = await full.verdict("a")
    assert verdict.lease is None
    assert verdict.detail.startswith("conflict: ")


async def test_two_claims_at_once_for_one_container(pool: Pool) -> None:
    await pool.configure(size={"min": 1, "max": 6})
    await pool.until_ready(1)
    pool.host.gate("install_in")
    both = await asyncio.gather(pool.claim("a"), pool.claim("b"), return_exceptions=True)
    granted = [reply for reply in both if not isinstance(reply, BaseException)]
    assert len(granted) == 1
    assert granted[0].outcome == "granted"
    assert (await pool.status()).counts.claimed == 1


async def test_an_ended_claim_is_never_granted_anew(full: Pool) -> None:
    lease = await full.grant("a")
    await full.release(lease)
    with refused("not_found"):
        await full.claim("a")
    await full.until_gone(lease.container)
    with refused("not_found") as found:
        await full.claim("a")
    assert found[0].details[0] == {"container": lease.container, "reason": "released"}
