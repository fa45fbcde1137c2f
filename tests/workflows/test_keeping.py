"""Leases to rely on: heartbeats, the warning before the end, holds, and another holder."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowUpdateStage
from temporalio.exceptions import ApplicationError

from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import (
    ArmRequest,
    ExtendReply,
    ExtendRequest,
    ReleaseReply,
    ReleaseRequest,
    TransferReply,
    TransferRequest,
)
from greenroom.core.records import Lease
from tests.workflows.pools import TICK_S, Pool, refused
from tests.workflows.test_ends import end_of, expires_at
from workflows.container import Container
from workflows.pool import PoolKeeper


async def pool_with(pool: Pool, **lease: object) -> Pool:
    await pool.configure(lease=lease)
    await pool.until_ready(2)
    return pool


async def transfer(pool: Pool, lease: Lease, holder: str) -> Lease:
    request = TransferRequest(claim_id=lease.claim_id, token=lease.token, holder=holder)
    reply: TransferReply = await pool.keeper.execute_update(PoolKeeper.transfer, request)
    return reply.lease


async def event_words(pool: Pool, lease: Lease) -> list[str]:
    """The container's history: activities and timers that were started, in order."""
    words = []
    async for event in pool.container(lease.container).fetch_history_events():
        if event.HasField("activity_task_scheduled_event_attributes"):
            words.append(event.activity_task_scheduled_event_attributes.activity_type.name)
        if event.HasField("timer_started_event_attributes"):
            words.append("timer")
    return words


# ── heartbeats ───────────────────────────────────────────────────────────────────────────────


async def test_a_holder_that_falls_silent_loses_the_lease_and_its_work_is_saved(pool: Pool) -> None:
    await pool_with(pool, grace=0)
    pool.host.silent_s = 0.0
    lease = await pool.grant("a", heartbeat_s=1)
    assert lease.heartbeat_s == 1
    await pool.until_true(lambda: len(pool.host.subjects("last_beat")) >= 2)
    assert not pool.host.ends
    pool.host.silent_s = 100.0
    # What it was last heard of is what counts, however long ago the host now says it was.
    assert await end_of(pool, lease) == "abandoned"
    (end,) = pool.host.ends
    assert (end.reason, end.save) == (EndReason.ABANDONED, True)
    assert (await pool.status()).retired == {"abandoned": 1}
    with refused("not_found") as found:
        await pool.claim("a", heartbeat_s=1)
    assert found[0].details[0]["reason"] == "abandoned"


async def test_a_host_that_cannot_be_asked_ends_nobodys_lease(pool: Pool) -> None:
    await pool_with(pool, grace=0, heartbeat=1)
    pool.host.failing["last_beat"] = ApplicationError("broken", non_retryable=True)
    lease = await pool.grant("a")
    assert lease.heartbeat_s == 1, "the pool's own, where the claim does not say"
    await pool.until_true(lambda: len(pool.host.subjects("last_beat")) >= 2)
    assert (await pool.status()).counts.claimed == 1
    assert not pool.host.ends


async def test_a_claim_without_terms_costs_no_event_more(full: Pool) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    await full.release(lease)
    await end_of(full, lease)
    words = await event_words(full, lease)
    assert words[-5:] == ["arm_lease", "timer", "close_lease", "save_work", "remove_container"]


@pytest.mark.parametrize("beat", [-1, 0.5])
async def test_an_impossible_heartbeat_is_refused(full: Pool, beat: float) -> None:
    with refused("usage"):
        await full.claim("a", heartbeat_s=beat)


# ── the warning ──────────────────────────────────────────────────────────────────────────────


async def test_the_host_warns_once_before_the_end_and_again_after_an_extension(pool: Pool) -> None:
    await pool_with(pool, warn="1h", ttl=3601)
    lease = await pool.grant("a")
    handle = pool.container(lease.container)
    while (words := await event_words(pool, lease))[-2:] != ["warn_lease", "timer"]:
        assert words.count("warn_lease") <= 1, "it is told once of one end"
        await asyncio.sleep(TICK_S)
    assert pool.host.subjects("warn_lease") == [lease.container]
    extend = ExtendRequest(token=lease.token, ttl_s=3602)
    await handle.execute_update(Container.extend, extend)
    await pool.until_true(lambda: len(pool.host.subjects("warn_lease")) == 2)
    details = await handle.query("__temporal_workflow_metadata")
    assert "ends soon" in str(details)


async def test_a_host_that_cannot_warn_does_not_keep_a_lease_from_its_end(pool: Pool) -> None:
    await pool_with(pool, warn=1, ttl=2)
    pool.host.failing["warn_lease"] = ApplicationError("broken", non_retryable=True)
    lease = await pool.grant("a")
    assert await end_of(pool, lease) == "expired"
    assert pool.host.subjects("warn_lease") == [lease.container]


async def test_a_release_does_not_wait_for_a_warning(pool: Pool) -> None:
    await pool_with(pool, warn="2h")
    pool.host.gate("warn_lease")
    lease = await pool.grant("a")
    await pool.until_true(lambda: pool.host.subjects("warn_lease") == [lease.container])
    await pool.release(lease)
    assert await end_of(pool, lease) == "released"


# ── holding ──────────────────────────────────────────────────────────────────────────────────


async def test_a_held_claim_lives_beyond_max_ttl_and_without_heartbeats(pool: Pool) -> None:
    await pool_with(pool, grace=0, ttl=60, max_ttl=60, max_hold=600)
    pool.host.silent_s = 0.0
    lease = await pool.grant("a", heartbeat_s=1)
    handle = pool.container(lease.container)
    with refused("usage") as found:
        await handle.execute_update(Container.extend, ExtendRequest(token=lease.token, ttl_s=61))
    assert "lease.max_ttl 60" in found[0].message
    with refused("usage") as found:
        longer = ExtendRequest(token=lease.token, ttl_s=601, hold=True)
        await handle.execute_update(Container.extend, longer)
    assert "lease.max_hold 600" in found[0].message
    hold = ExtendRequest(token=lease.token, ttl_s=600, hold=True)
    reply: ExtendReply = await handle.execute_update(Container.extend, hold)
    assert reply.held
    pool.host.silent_s = 100.0
    status = await pool.until(lambda s: any(slot.held for slot in s.containers))
    assert expires_at(status, lease) == reply.expires_at
    asked = len(pool.host.subjects("last_beat"))
    # An extension after it neither ends the hold nor begins to ask again.
    extend = ExtendRequest(token=lease.token, ttl_s=60)
    reply = await handle.execute_update(Container.extend, extend)
    assert (reply.expires_at, len(pool.host.subjects("last_beat"))) == (
        expires_at(status, lease),
        asked,
    )
    await pool.release(lease)
    assert await end_of(pool, lease) == "released"


# ── another holder ───────────────────────────────────────────────────────────────────────────


async def test_a_transfer_fences_the_old_token_on_the_host_and_in_the_workflow(full: Pool) -> None:
    lease = await full.grant("a", holder="ada")
    await full.until_armed(lease)
    passed = await transfer(full, lease, "bob")
    assert await transfer(full, lease, "bob") == passed
    await full.until_true(lambda: full.host.armed[lease.container] == passed.token)
    handle = full.container(lease.container)
    for message in (
        ExtendRequest(token=lease.token, ttl_s=60),
        ReleaseRequest(claim_id="a", token=lease.token),
        ArmRequest(claim_id="a", token=lease.token),
    ):
        name = type(message).__name__.removesuffix("Request").lower()
        with refused("fenced"):
            await handle.execute_update(name, message)
    with refused("fenced"):
        await full.claim("a", holder="ada")
    status = await full.until(lambda s: any(slot.holder == "bob" for slot in s.containers))
    assert status.counts.claimed == 1
    reply: ReleaseReply = await handle.execute_update(
        Container.release, ReleaseRequest(claim_id="a", token=passed.token)
    )
    assert reply.saved.state == "saved"
    assert full.host.ends[0].token == passed.token


async def test_the_next_holder_may_speak_before_the_container_has_heard_of_it(full: Pool) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    early = ExtendRequest(token=lease.token + 1, ttl_s=7200)
    extending = await full.container(lease.container).start_update(
        Container.extend, early, wait_for_stage=WorkflowUpdateStage.ACCEPTED
    )
    assert (await transfer(full, lease, "bob")).token == lease.token + 1
    assert (await extending.result()).expires_at > lease.expires_at


async def test_a_transfer_during_an_extension_loses_neither(full: Pool) -> None:
    lease = await full.grant("a", ttl_s=60)
    await full.until_armed(lease)
    written = full.host.gate("extend_lease")
    handle = full.container(lease.container)
    extending = asyncio.create_task(
        handle.execute_update(Container.extend, ExtendRequest(token=lease.token, ttl_s=600))
    )
    await full.until_true(lambda: full.host.subjects("extend_lease") == [lease.container])
    passed = await transfer(full, lease, "bob")
    await full.until_true(lambda: full.host.armed[lease.container] == passed.token)
    written.set()
    later = (await extending).expires_at
    assert later > passed.expires_at
    status = await full.until(lambda s: expires_at(s, lease) == later)
    assert {slot.holder for slot in status.containers} == {"", "bob"}
    extend = ExtendRequest(token=passed.token, ttl_s=1)
    assert (await handle.execute_update(Container.extend, extend)).expires_at == later


async def test_a_transfer_that_the_host_heard_of_first_is_not_the_leases_death(full: Pool) -> None:
    """The API armed the new token while the workflow was still arming the old one."""
    arming = full.host.gate("arm_lease")
    lease = await full.grant("a")
    await full.until_true(lambda: full.host.subjects("arm_lease") == [lease.container])
    full.host.armed[lease.container] = lease.token + 1
    arming.set()
    passed = await transfer(full, lease, "bob")
    arm = ArmRequest(claim_id="a", token=passed.token)
    assert (await full.container(lease.container).execute_update(Container.arm, arm)).armed
    assert (await full.status()).counts.claimed == 1


async def test_a_release_that_was_first_wins_over_a_transfer(full: Pool) -> None:
    lease = await full.grant("a")
    saving = full.host.gate("save_work")
    await full.release(lease)
    with refused("not_found"):
        await transfer(full, lease, "bob")
    saving.set()
    assert await end_of(full, lease) == "released"
    with refused("not_found") as found:
        await transfer(full, lease, "bob")
    assert "ended: released" in found[0].message
