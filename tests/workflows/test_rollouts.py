"""What happens to a whole pool: refresh, pause, resize, down and up again, delete."""

from __future__ import annotations

import pytest
from temporalio.client import WorkflowExecutionStatus

from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import CancelClaim, ContainerNews
from greenroom.core.pool_messages import ConfigureReply, PoolStatus, ResizeRequest
from tests.workflows.pools import Pool, refused
from workflows.pool import PoolKeeper


async def resize(pool: Pool, minimum: int, maximum: int | None = None) -> ConfigureReply:
    request = ResizeRequest(min=minimum, max=maximum)
    return await pool.keeper.execute_update(PoolKeeper.resize, request)


def preparing(status: PoolStatus) -> int:
    return status.counts.creating + status.counts.cloning + status.counts.installing


async def test_a_refresh_never_takes_the_pool_below_its_target(full: Pool) -> None:
    held = await full.grant("held")
    await full.until_ready(2)
    install = full.host.gate("install_in")
    full.host.commit = "c2"
    await full.pushed()
    status = await full.until(lambda s: s.commit == "c2" and s.counts.installing > 0)
    assert (status.counts.ready, status.counts.stale, status.counts.claimed) == (2, 2, 1)
    assert status.refresh.state == "rolling"
    old = await full.grant("while-rolling")
    assert old.commit == "c1"
    install.set()
    status = await full.until(lambda s: s.refresh.state == "idle" and s.counts.ready == 2)
    assert status.counts.stale == 0
    assert {s.commit for s in status.containers if s.state == "ready"} == {"c2"}
    assert status.counts.claimed == 2
    assert held.container in full.host.containers
    assert (await full.grant("after")).commit == "c2"


async def test_ready_containers_go_only_when_others_stand_in(full: Pool) -> None:
    full.host.commit = "c2"
    await full.pushed()
    await full.until(lambda s: s.commit == "c2" and s.counts.stale == 0 and s.counts.ready == 2)
    await full.until_true(lambda: len(full.host.containers) == 2)
    ready, lowest = 0, 2
    for what, _ in full.host.marks:
        ready += 1 if what == "ready" else -1
        lowest = min(lowest, ready if what == "removing" else lowest)
    assert lowest == 2


async def test_a_push_of_nothing_new_changes_nothing(full: Pool) -> None:
    before = await full.status()
    await full.pushed()
    await full.until_true(lambda: len(full.host.subjects("look")) == 2)
    status = await full.until(lambda s: s.refresh.state == "idle")
    assert status.containers == before.containers
    assert full.host.subjects("start_builder") == ["f-c1"]


async def test_what_a_container_fixes_at_its_creation_is_rolled_too(full: Pool) -> None:
    before = {slot.container for slot in (await full.status()).containers}
    assert (await full.configure(limits={"pids": 64})).changed == ("limits.pids: 512 → 64",)
    await full.until(lambda s: s.refresh.state == "rolling")
    status = await full.until(lambda s: s.refresh.state == "idle" and s.counts.ready == 2)
    assert not before & {slot.container for slot in status.containers}
    assert full.host.subjects("start_builder") == ["f-c1"]


async def test_a_paused_pool_serves_and_does_not_refill(full: Pool) -> None:
    await full.keeper.signal(PoolKeeper.pause)
    await full.grant("a")
    status = await full.status()
    assert (status.paused, status.counts.ready, preparing(status)) == (True, 1, 0)
    await full.keeper.signal(PoolKeeper.resume)
    status = await full.until_ready(2)
    assert not status.paused


async def test_resizing_up_and_down(full: Pool) -> None:
    assert (await resize(full, 4)).changed == ("size.min: 2 → 4",)
    await full.until_ready(4)
    lease = await full.grant("a")
    await full.until_ready(4)
    await resize(full, 1)
    status = await full.until(lambda s: s.counts.ready == 1 and len(s.containers) == 2)
    assert status.retired == {"surplus": 3}
    assert lease.container in full.host.containers
    await resize(full, 0, 1)
    await full.until(lambda s: s.counts.ready == 0 and len(s.containers) == 1)
    for minimum, maximum in ((3, 2), (-1, 2), (1, 1001)):
        with refused("usage"):
            await resize(full, minimum, maximum)


async def test_a_pool_of_none_prepares_for_who_waits(pool: Pool) -> None:
    await pool.configure(size={"min": 0, "max": 2})
    await pool.until(lambda s: s.commit == "c1")
    assert not (await pool.status()).containers
    reply = await pool.claim("a", wait_s=60)
    assert reply.outcome == "queued"
    assert (await pool.verdict("a")).lease is not None


async def test_down_is_refused_while_claims_live(full: Pool) -> None:
    await full.grant("a")
    before = (await full.keeper.describe()).history_length
    await full.until_ready(2)
    settled = (await full.keeper.describe()).history_length
    assert settled > before
    with refused("live_claims") as found:
        await full.suspend(reason="down")
    assert found[0].details[0] == {"claims": "a"}
    assert (await full.keeper.describe()).history_length == settled
    assert (await full.status()).suspended == ""


async def test_down_by_force_saves_and_up_again_fills_with_counters_kept(full: Pool) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    await full.until_ready(2)
    reply = await full.suspend(reason="down", force=True)
    assert (reply.live_claims, reply.containers) == (("a",), 3)
    status = await full.until(lambda s: not s.containers)
    assert (status.suspended, status.counts.retired_total) == ("down", 3)
    assert not full.host.containers
    (end,) = full.host.ends
    assert (end.reason, end.save, end.claim_id) == (EndReason.DOWN, True, "a")
    with refused("no_container") as found:
        await full.claim("b", wait_s=60)
    assert found[0].details[0]["miss_reason"] == "draining"
    # Another pool file does not wake it, `up` does.
    await full.configure(env={"A": "b"})
    assert (await full.status()).suspended == "down"
    assert not (await full.configure(resume_from_down=True)).created
    status = await full.until_ready(2)
    assert (status.suspended, status.retired, status.claims_warm) == ("", {"down": 3}, 1)
    assert full.host.subjects("start_builder") == ["f-c1"]


async def test_down_tells_who_waits_and_stops_a_build(pool: Pool) -> None:
    step = pool.host.gate("builder_step")
    await pool.configure()
    await pool.claim("a", wait_s=600)
    await pool.until_true(lambda: bool(pool.host.subjects("builder_step")))
    await pool.suspend(reason="down")
    verdict = await pool.verdict("a")
    assert (verdict.lease, verdict.reason) == (None, EndReason.DOWN)
    status = await pool.until(lambda s: s.refresh.state == "idle")
    assert (status.failure, status.commit) == (None, "")
    assert pool.host.subjects("remove_builder") == ["f-c1"]
    step.set()


async def test_deleting_ends_the_keeper_when_everything_is_gone(full: Pool) -> None:
    lease = await full.grant("a")
    with refused("live_claims"):
        await full.suspend(reason="deleted")
    removing = full.host.gate("remove_container")
    await full.suspend(reason="deleted", force=True)
    with refused("not_found"):
        await full.claim("b", wait_s=60)
    removing.set()
    await full.keeper.result()
    assert not full.host.containers
    assert full.host.subjects("save_work") == [lease.container]
    # The name is free again.
    assert (await full.configure()).created
    await full.until_ready(2)


@pytest.mark.parametrize("late", [True, False])
async def test_a_message_in_the_last_task_of_a_deleted_pool_does_not_hold_it(
    full: Pool, late: bool
) -> None:
    removing = full.host.gate("remove_container")
    await full.suspend(reason="deleted")
    containers = [slot.container for slot in (await full.status()).containers]
    await full.until_true(lambda: len(full.host.subjects("remove_container")) == 2)
    await full.workers.stop()
    if late:
        await full.keeper.signal(PoolKeeper.cancel, CancelClaim(claim_id="unknown"))
    for container in containers:
        news = ContainerNews(
            container=container, seq=99, kind="retired", at=0.0, reason=EndReason.DELETED
        )
        await full.keeper.signal(PoolKeeper.container_news, news)
    await full.workers.start()
    await full.keeper.result()
    assert (await full.keeper.describe()).status is WorkflowExecutionStatus.COMPLETED
    removing.set()
    await full.until_true(lambda: not full.host.containers)
