"""The end of a lease: released, extended, expired, and tokens that are not those of the lease."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowUpdateStage
from temporalio.exceptions import ApplicationError

from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import ArmRequest, ExtendRequest, ReleaseReply, ReleaseRequest
from greenroom.core.pool_messages import PoolStatus
from greenroom.core.records import Lease
from tests.workflows.pools import Pool, refused
from workflows.container import Container
from workflows.pool import PoolKeeper


def release_of(lease: Lease, **fields: object) -> ReleaseRequest:
    same = {"claim_id": lease.claim_id, "token": lease.token}
    return ReleaseRequest.model_validate({**same, **fields})


async def end_of(pool: Pool, lease: Lease) -> str:
    """How the lease's container ended, when it and its place in the pool are gone."""
    reason = await pool.container(lease.container).result()
    await pool.until_gone(lease.container)
    assert lease.container not in pool.host.containers
    return reason


def expires_at(status: PoolStatus, lease: Lease) -> float:
    (slot,) = [one for one in status.containers if one.container == lease.container]
    return slot.expires_at


async def next_granted(pool: Pool) -> str:
    """The container that the next claim gets: the longest ready."""
    ready = (await pool.status()).containers
    return min(ready, key=lambda slot: (slot.since, slot.container)).container


async def test_release_by_update_answers_when_the_work_is_saved(full: Pool) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    reply: ReleaseReply = await full.container(lease.container).execute_update(
        Container.release, release_of(lease)
    )
    assert (reply.claim_id, reply.container) == ("a", lease.container)
    assert reply.reason is EndReason.RELEASED
    assert (reply.saved.state, reply.saved.files) == ("saved", ("work.bundle",))
    assert await end_of(full, lease) == "released"
    names = [name for name, subject in full.host.calls if subject == lease.container]
    assert names[-3:] == ["close_lease", "save_work", "remove_container"]
    assert (await full.status()).retired == {"released": 1}


async def test_released_work_that_is_not_wanted_is_discarded(full: Pool) -> None:
    lease = await full.grant("a")
    await full.release(lease, save=False)
    assert await end_of(full, lease) == "released"
    (end,) = full.host.ends
    assert (end.claim_id, end.token, end.save) == ("a", lease.token, False)


async def test_release_by_the_keeper_is_done_once(full: Pool) -> None:
    lease = await full.grant("a")
    await asyncio.gather(*(full.release(lease) for _ in range(3)))
    assert await end_of(full, lease) == "released"
    await full.release(lease)
    assert full.host.subjects("close_lease") == [lease.container]
    assert full.host.subjects("save_work") == [lease.container]


@pytest.mark.parametrize("way", ["signal", "update"])
async def test_a_release_that_overtakes_its_grant_ends_the_claim(full: Pool, way: str) -> None:
    """The container hears of the release first; the claim must not get another container."""
    container = await next_granted(full)
    handle = full.container(container)
    early = ReleaseRequest(claim_id="a", token=1)
    waiting: asyncio.Task[ReleaseReply] | None = None
    if way == "signal":
        await handle.signal(Container.release_by_signal, early)
    else:
        started = await handle.start_update(
            Container.release, early, wait_for_stage=WorkflowUpdateStage.ACCEPTED
        )
        waiting = asyncio.create_task(started.result())
    lease = await full.grant("a")
    assert (lease.container, lease.token) == (container, 1)
    assert await end_of(full, lease) == "released"
    if waiting is not None:
        assert (await waiting).reason is EndReason.RELEASED
    status = await full.until_ready(2)
    assert (status.counts.claimed, status.queue) == (0, 0)
    assert status.retired == {"released": 1}
    with refused("not_found"):
        await full.claim("a")


async def test_a_release_with_a_token_of_nobody_ends_nothing(full: Pool) -> None:
    container = await next_granted(full)
    stray = ReleaseRequest(claim_id="nobody", token=0)
    await full.container(container).signal(Container.release_by_signal, stray)
    lease = await full.grant("a")
    assert lease.container == container
    await full.until_armed(lease)
    assert (await full.status()).counts.claimed == 1


async def test_an_older_token_is_refused_and_leaves_no_event(full: Pool) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    handle = full.container(lease.container)
    await full.until(lambda s: s.counts.ready == 2)
    before = (await handle.describe()).history_length
    other = lease.token - 1
    with refused("fenced"):
        await handle.execute_update(Container.release, release_of(lease, token=other))
    with refused("fenced"):
        await handle.execute_update(Container.extend, ExtendRequest(token=other, ttl_s=60))
    with refused("fenced"):
        await handle.execute_update(Container.arm, ArmRequest(claim_id="a", token=other))
    assert (await handle.describe()).history_length == before
    await full.keeper.signal(PoolKeeper.release, release_of(lease, token=lease.token + 1))
    assert (await full.status()).counts.claimed == 1
    arm = ArmRequest(claim_id="a", token=lease.token)
    assert (await handle.execute_update(Container.arm, arm)).armed


async def test_extending_writes_the_host_first_and_the_keeper_follows(full: Pool) -> None:
    lease = await full.grant("a", ttl_s=60)
    await full.until_armed(lease)
    written = full.host.gate("extend_lease")
    handle = full.container(lease.container)
    extending = asyncio.create_task(
        handle.execute_update(Container.extend, ExtendRequest(token=lease.token, ttl_s=600))
    )
    await full.until_true(lambda: full.host.subjects("extend_lease") == [lease.container])
    assert expires_at(await full.status(), lease) == lease.expires_at
    assert not extending.done()
    written.set()
    later = (await extending).expires_at
    assert later > lease.expires_at + 500
    await full.until(lambda s: expires_at(s, lease) == later)
    # Never shorter.
    shorter = ExtendRequest(token=lease.token, ttl_s=1)
    assert (await handle.execute_update(Container.extend, shorter)).expires_at == later
    with refused("usage"):
        await handle.execute_update(Container.extend, ExtendRequest(token=lease.token, ttl_s=86401))


async def test_a_lease_past_its_time_ends_by_itself_and_its_work_is_saved(full: Pool) -> None:
    lease = await full.grant("a", ttl_s=1)
    assert await end_of(full, lease) == "expired"
    (end,) = full.host.ends
    assert (end.reason, end.save) == (EndReason.EXPIRED, True)
    assert full.host.subjects("save_work") == [lease.container]
    assert (await full.status()).retired == {"expired": 1}
    with refused("not_found") as found:
        await full.claim("a", ttl_s=1)
    assert found[0].details[0]["reason"] == "expired"


async def test_a_lease_that_is_being_extended_does_not_expire_meanwhile(full: Pool) -> None:
    """The host's lease file has the new time already, so it is not the workflow's to end it."""
    lease = await full.grant("a", ttl_s=1)
    await full.until_armed(lease)
    handle = full.container(lease.container)
    written = full.host.gate("extend_lease")
    extend = ExtendRequest(token=lease.token, ttl_s=300)
    extending = asyncio.create_task(handle.execute_update(Container.extend, extend))
    await full.until_true(lambda: full.host.subjects("extend_lease") == [lease.container])
    await fired(full, lease)
    written.set()
    later = (await extending).expires_at
    status = await full.until(lambda s: expires_at(s, lease) == later)
    assert status.counts.claimed == 1
    assert not full.host.ends


async def fired(pool: Pool, lease: Lease) -> None:
    """Until the timer of the lease's end has gone off."""
    while True:
        async for event in pool.container(lease.container).fetch_history_events():
            if event.HasField("timer_fired_event_attributes"):
                return
        await asyncio.sleep(0.05)


async def test_extending_an_ended_lease_is_refused(full: Pool) -> None:
    lease = await full.grant("a")
    saving = full.host.gate("save_work")
    await full.release(lease)
    await full.until_true(lambda: full.host.subjects("save_work") == [lease.container])
    with refused("not_found"):
        await full.container(lease.container).execute_update(
            Container.extend, ExtendRequest(token=lease.token, ttl_s=60)
        )
    saving.set()
    assert await end_of(full, lease) == "released"


async def test_an_extension_that_the_host_refuses_is_the_callers_error(full: Pool) -> None:
    lease = await full.grant("a")
    full.host.failing["extend_lease"] = ApplicationError(
        "not the token of the lease", type="fenced", non_retryable=True
    )
    with refused("fenced"):
        await full.container(lease.container).execute_update(
            Container.extend, ExtendRequest(token=lease.token, ttl_s=60)
        )
    assert (await full.status()).counts.claimed == 1


async def test_work_that_cannot_be_saved_keeps_the_stopped_container(full: Pool) -> None:
    lease = await full.grant("a")
    full.host.failing["save_work"] = ApplicationError("disk full", non_retryable=True)
    reply: ReleaseReply = await full.container(lease.container).execute_update(
        Container.release, release_of(lease)
    )
    assert (reply.saved.state, reply.saved.detail) == ("unsaved", "disk full")
    status = await full.until_gone(lease.container)
    assert status.retired == {"released": 1}
    await full.until_ready(2)
    assert lease.container in full.host.containers
    assert full.host.subjects("close_lease") == [lease.container]
