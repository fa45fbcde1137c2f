"""Preparing that fails: the reason is seen, the pool holds off, what served goes on serving."""

from __future__ import annotations

import pytest
from temporalio.exceptions import ApplicationError

from greenroom.core.messages import Ask
from greenroom.core.names import WORKFLOW_QUEUE, snapshot_workflow_id
from greenroom.core.pool_messages import SnapshotInput
from greenroom.core.records import Source
from tests.workflows.pools import Pool, refused
from workflows.snapshot import Snapshot


def broken(step: str) -> ApplicationError:
    """What the activities raise for a line that fails."""
    told = {"step": step, "tail": f"{step}: no such package", "log": "evidence/1.log"}
    return ApplicationError(f"{step} failed", told, type="preparation", non_retryable=True)


@pytest.mark.parametrize("activity", ["create_container", "clone_in", "install_in"])
async def test_a_container_that_fails_shows_why_and_the_pool_holds_off(
    pool: Pool, activity: str
) -> None:
    pool.host.failing[activity] = broken("the step")
    await pool.configure()
    status = await pool.until(lambda s: s.failure is not None and not s.containers)
    assert status.failure is not None
    assert status.failure.reason == "the step failed"
    assert status.failure.tail == "the step: no such package"
    assert status.failure.log == "evidence/1.log"
    assert status.failure_streak == 1
    assert status.retry_at is not None
    assert status.retry_at > status.failure.at
    assert status.retired == {"failed": 2}
    assert not pool.host.containers
    tried = len(pool.host.subjects("create_container"))
    pool.host.failing.clear()
    await pool.pushed(force=True)
    status = await pool.until_ready(2)
    assert status.failure is None
    assert len(pool.host.subjects("create_container")) == tried + 2


async def test_after_the_hold_off_the_pool_tries_again_by_itself(pool: Pool) -> None:
    pool.host.failing["install_in"] = broken("install")
    await pool.configure()
    await pool.until(lambda s: s.failure_streak == 1 and not s.containers)
    pool.host.failing.clear()
    assert (await pool.until_ready(2)).failure_streak == 0


@pytest.mark.parametrize(
    "activity", ["builder_step:install", "builder_step:build", "verify_image", "commit_builder"]
)
async def test_a_failing_snapshot_leaves_the_last_good_one_serving(
    pool: Pool, activity: str
) -> None:
    await pool.configure(build=["make"], verify=["make smoke"])
    await pool.until_ready(2)
    pool.host.commit = "c2"
    pool.host.failing[activity] = broken(activity)
    await pool.pushed()
    status = await pool.until(lambda s: s.refresh.state == "failed")
    assert status.refresh.error is not None
    assert status.refresh.error.reason == f"{activity} failed"
    assert status.refresh.error.tail == f"{activity}: no such package"
    assert status.refresh.retry_at is not None
    assert status.refresh.retry_at > status.refresh.error.at
    assert (status.refresh.commit, status.commit) == ("c2", "c1")
    assert (status.counts.ready, status.counts.stale) == (2, 0)
    assert (await pool.grant("a")).commit == "c1"
    assert pool.host.subjects("remove_builder") == ["f-c1", "f-c2"]
    assert pool.host.subjects("tag_snapshot") == ["f-c1"]
    pool.host.failing.clear()
    await pool.pushed(force=True)
    status = await pool.until(lambda s: s.commit == "c2" and s.counts.stale == 0)
    assert status.refresh.error is None


@pytest.mark.parametrize("activity", ["look", "builder_step:clone"])
async def test_a_first_snapshot_that_fails_is_the_pools_failure(pool: Pool, activity: str) -> None:
    pool.host.failing[activity] = broken("clone")
    await pool.configure()
    status = await pool.until(lambda s: s.failure is not None)
    assert status.failure is not None
    assert status.failure.tail == "clone: no such package"
    assert not status.containers
    with refused("no_container") as found:
        await pool.claim("a")
    assert found[0].details[0]["miss_reason"] == "pool_empty"
    # A changed pool file is a new start.
    pool.host.failing.clear()
    assert (await pool.configure(env={"A": "b"})).changed == ("env: {} → {'A': 'b'}",)
    assert (await pool.until_ready(2)).failure is None


async def test_a_superseded_build_is_stopped_and_is_no_failure(pool: Pool) -> None:
    step = pool.host.gate("builder_step")
    await pool.configure()
    await pool.until(lambda s: s.refresh.state == "building" and s.refresh.commit == "c1")
    await pool.until_true(lambda: pool.host.subjects("builder_step") == ["clone"])
    pool.host.commit = "c2"
    await pool.pushed()
    await pool.until_true(lambda: pool.host.subjects("remove_builder") == ["f-c1"])
    step.set()
    status = await pool.until_ready(2)
    assert status.commit == "c2"
    assert (status.failure, status.failure_streak) == (None, 0)
    assert pool.host.subjects("tag_snapshot") == ["f-c2"]


async def test_a_superseded_build_whose_line_fails_while_it_is_stopped_is_no_failure(
    pool: Pool,
) -> None:
    pool.host.gate("builder_step")
    pool.host.failing_when_cancelled["builder_step"] = broken("killed")
    await pool.configure()
    await pool.until_true(lambda: pool.host.subjects("builder_step") == ["clone"])
    pool.host.commit = "c2"
    await pool.pushed()
    await pool.until_true(lambda: pool.host.subjects("remove_builder") == ["f-c1"])
    pool.host.gates.clear()
    streaks = set()
    await pool.until(lambda s: streaks.add(s.failure_streak) or s.counts.ready == 2)
    assert streaks == {0}
    assert (await pool.status()).commit == "c2"


async def test_a_build_that_is_stopped_before_it_began_never_begins(pool: Pool) -> None:
    start = SnapshotInput(
        pool=pool.name,
        config=pool.config,
        source=Source(commit="c1", ref="main", mirror="m", dependencies="d", fingerprint="f-c1"),
    )
    news = await pool.client.execute_workflow(
        Snapshot.run,
        start,
        id=snapshot_workflow_id(pool.name, "f-c1"),
        task_queue=WORKFLOW_QUEUE,
        start_signal="stop",
        start_signal_args=[Ask(seq=0)],
    )
    assert news.failure is not None
    assert news.failure.step == "cancelled"
    assert not pool.host.calls
