"""The keeper continues as new, workers come and go, messages come twice: nothing is lost."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.exceptions import ApplicationError

from greenroom.core.ledger import KeeperInput, Ledger
from greenroom.core.messages import Claimed, ClaimRequest, ContainerInput, WaitInput, WaitVerdict
from greenroom.core.names import WORKFLOW_QUEUE
from greenroom.core.pool_messages import ConfigureRequest, Pushed, ResizeRequest, SuspendRequest
from greenroom.core.records import Lease
from tests.workflows.pools import Pool
from workflows.pool import PoolKeeper


async def test_fifty_claims_at_once_through_five_handovers(pool: Pool) -> None:
    await pool.configure(size={"min": 8, "max": 60})
    await pool.until_ready(8)
    first = await pool.run_id()

    async def claim(number: int) -> Lease:
        if number % 10 == 5:
            await pool.keeper.signal(PoolKeeper.handoff)
        reply = await pool.claim(f"c{number}", wait_s=120)
        return reply.lease or (await lease_of_wait(pool, f"c{number}"))

    leases = await asyncio.gather(*(claim(number) for number in range(50)))
    assert len({lease.container for lease in leases}) == 50
    assert len({lease.token for lease in leases}) == 50
    assert [lease.claim_id for lease in leases] == [f"c{number}" for number in range(50)]
    for lease in leases:
        await pool.until_armed(lease)
    status = await pool.until(lambda s: s.counts.claimed == 50)
    assert (status.queue, status.claims_warm + status.claims_cold) == (0, 50)
    assert await pool.run_id() != first


async def lease_of_wait(pool: Pool, claim_id: str) -> Lease:
    verdict = await pool.verdict(claim_id)
    assert verdict.lease is not None, verdict
    return verdict.lease


async def test_a_handover_keeps_the_whole_ledger(full: Pool) -> None:
    lease = await full.grant("a")
    ended = await full.grant("b")
    await full.release(ended)
    await full.until_gone(ended.container)
    await full.keeper.signal(PoolKeeper.pause)
    status = await full.until_ready(2)
    before = await full.run_id()
    await full.keeper.signal(PoolKeeper.handoff)
    await full.handed_over(before)
    assert (await full.status()).model_copy(update={"at": status.at}) == status
    assert (await full.claim("a")).lease == lease
    assert not (await full.configure()).created


async def test_a_handover_does_not_wait_for_a_slow_repository(full: Pool) -> None:
    """A push in the task that hands over: the next run looks, and claims go on meanwhile."""
    look = full.host.gate("look")
    before = await full.run_id()
    await full.workers.stop()
    await full.keeper.signal(PoolKeeper.handoff)
    await full.keeper.signal(PoolKeeper.pushed, Pushed())
    claiming = asyncio.create_task(full.grant("a"))
    await full.workers.start()
    lease = await claiming
    await full.handed_over(before)
    await full.until_true(lambda: len(full.host.subjects("look")) == 2)
    assert (await full.grant("b")).container != lease.container
    assert not look.is_set()
    look.set()


async def test_while_it_drains_the_keeper_refuses_every_update(pool: Pool) -> None:
    """Directly, because a server drains too quickly to be met in the act."""
    keeper = PoolKeeper(KeeperInput(pool=pool.name, config=pool.config))
    keeper._draining = True
    for check, request in (
        (keeper._check_claim, ClaimRequest(claim_id="a")),
        (keeper._check_configure, ConfigureRequest(config=pool.config)),
        (keeper._check_resize, ResizeRequest(min=1)),
        (keeper._check_suspend, SuspendRequest()),
    ):
        with pytest.raises(ApplicationError) as caught:
            check(request)  # type: ignore[arg-type]
        assert caught.value.type == "draining"


async def ledger_of(pool: Pool) -> Ledger:
    """The ledger as the keeper hands it over now."""
    before = await pool.run_id()
    await pool.keeper.signal(PoolKeeper.handoff)
    now = await pool.handed_over(before)
    handle = pool.client.get_workflow_handle(pool.keeper.id, run_id=now)
    async for event in handle.fetch_history_events():
        assert event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED
        payloads = event.workflow_execution_started_event_attributes.input.payloads
        (start,) = await pool.client.data_converter.decode(payloads, [KeeperInput])
        assert start.ledger is not None
        ledger: Ledger = start.ledger
        return ledger
    raise AssertionError("a run without events")


async def test_outbox_entries_that_are_carried_over_are_sent_again_and_do_no_harm(
    full: Pool,
) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    status = await full.until_ready(2)
    ledger = await ledger_of(full)
    assert not ledger.outbox
    await full.keeper.terminate("to be started from its ledger")
    assert ledger.serving is not None
    begun = ContainerInput(
        pool=full.name, container=lease.container, config=full.config, snapshot=ledger.serving
    )
    wait = WaitInput(pool=full.name, request=ClaimRequest(claim_id="a", wait_s=60))
    ledger.post("start", lease.container_workflow, "Container", begun)
    ledger.post("signal", lease.container_workflow, "claimed", Claimed(seq=1, lease=lease))
    ledger.post("start", full.wait("a").id, "Wait", wait)
    ledger.post("signal", full.wait("a").id, "verdict", WaitVerdict(lease=lease))
    await full.client.start_workflow(
        PoolKeeper.run,
        KeeperInput(pool=full.name, config=full.config, ledger=ledger),
        id=full.keeper.id,
        task_queue=WORKFLOW_QUEUE,
    )
    assert await lease_of_wait(full, "a") == lease
    assert not (await ledger_of(full)).outbox
    assert (await full.status()).containers == status.containers
    assert full.host.subjects("arm_lease") == [lease.container]
    assert full.host.subjects("create_container").count(lease.container) == 1
    await full.release(lease)
    await full.until_gone(lease.container)


async def test_an_entry_whose_receiver_is_gone_is_dropped(full: Pool) -> None:
    ledger = await ledger_of(full)
    await full.keeper.terminate("to be started from its ledger")
    ledger.post("signal", full.wait("nobody").id, "verdict", WaitVerdict())
    await full.client.start_workflow(
        PoolKeeper.run,
        KeeperInput(pool=full.name, config=full.config, ledger=ledger),
        id=full.keeper.id,
        task_queue=WORKFLOW_QUEUE,
    )
    assert not (await ledger_of(full)).outbox
    assert (await full.status()).counts.ready == 2


@pytest.mark.slow
@pytest.mark.parametrize("activity", ["create_container", "install_in", "arm_lease"])
async def test_a_worker_that_is_replaced_in_the_middle_of_claims(pool: Pool, activity: str) -> None:
    await pool.configure(size={"min": 2, "max": 12})
    await pool.until_ready(2)
    gate = pool.host.gate(activity)
    early = [await pool.claim(f"e{number}", wait_s=120) for number in range(4)]
    await pool.until_true(lambda: activity in {name for name, _ in pool.host.calls[-8:]})
    await pool.workers.stop()
    late = [asyncio.create_task(pool.claim(f"l{number}", wait_s=120)) for number in range(4)]
    gate.set()
    await pool.workers.start()
    replies = early + await asyncio.gather(*late)
    names = [f"e{number}" for number in range(4)] + [f"l{number}" for number in range(4)]
    leases = [
        reply.lease or (await lease_of_wait(pool, name))
        for name, reply in zip(names, replies, strict=True)
    ]
    assert len({lease.container for lease in leases}) == 8
    for lease in leases:
        await pool.until_armed(lease)
    status = await pool.until_ready(2)
    assert (status.counts.claimed, status.queue) == (8, 0)
    assert (status.retired, status.failure) == ({}, None)


@pytest.mark.slow
async def test_the_end_of_a_lease_outlives_its_worker(full: Pool) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    saving = full.host.gate("save_work")
    await full.release(lease)
    await full.until_true(lambda: full.host.subjects("save_work") == [lease.container])
    await full.workers.stop()
    saving.set()
    await full.workers.start()
    assert await full.container(lease.container).result() == "released"
    status = await full.until_gone(lease.container)
    assert status.retired == {"released": 1}
    assert lease.container not in full.host.containers
