"""The keeper with its children on a real Temporal server, without Docker."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from greenroom.core.messages import ReleaseRequest
from tests.workflows.pools import Pool
from workflows.pool import PoolKeeper


async def test_a_new_pool_fills_itself(pool: Pool) -> None:
    assert (await pool.configure()).created
    status = await pool.until_ready(2)
    assert status.commit == "c1"
    assert not (await pool.configure()).created
    assert pool.host.subjects("start_builder") == ["f-c1"]


async def test_a_claim_is_granted_and_the_pool_refills(pool: Pool) -> None:
    await pool.configure()
    await pool.until_ready(2)
    reply = await pool.claim("a")
    assert reply.lease is not None
    assert reply.lease.warm
    again = await pool.claim("a")
    assert again.lease == reply.lease
    status = await pool.until_ready(2)
    assert status.counts.claimed == 1
    release = ReleaseRequest(claim_id="a", token=reply.lease.token)
    await pool.keeper.signal(PoolKeeper.release, release)
    status = await pool.until(lambda s: s.counts.claimed == 0)
    assert pool.host.subjects("save_work") == [reply.lease.container]
    assert reply.lease.container not in pool.host.containers


async def test_another_request_under_the_same_id_is_refused(pool: Pool) -> None:
    await pool.configure()
    await pool.until_ready(2)
    await pool.claim("a")
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await pool.claim("a", holder="somebody else")
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "conflict"


async def test_continue_as_new_in_the_task_of_a_grant_loses_nothing(pool: Pool) -> None:
    await pool.configure(size={"min": 4, "max": 40})
    await pool.until_ready(4)
    first_run = (await pool.keeper.describe()).run_id
    replies = []
    for round_ in range(3):
        claims = [pool.claim(f"{round_}-{n}", wait_s=60) for n in range(3)]
        replies += await asyncio.gather(pool.keeper.signal(PoolKeeper.handoff), *claims)
        await pool.until_ready(4)
    leases = [reply.lease for reply in replies if reply is not None and reply.lease]
    assert len({lease.container for lease in leases}) == len(leases)
    status = await pool.until(lambda s: s.counts.claimed == 9)
    assert (await pool.keeper.describe()).run_id != first_run
    await pool.until(lambda s: set(pool.host.armed) >= {lease.container for lease in leases})
    assert status.queue == 0
