"""What each recorded history is, how it is made, and what it must contain to deserve its name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError

from greenroom.core.messages import ClaimBatch, ClaimRequest, ExtendRequest, TransferRequest
from greenroom.core.names import WORKFLOW_QUEUE, snapshot_workflow_id, task_workflow_id
from greenroom.core.task_messages import TaskInput, TaskResult
from tests.workflows.pools import Pool
from workflows.container import Container
from workflows.pool import PoolKeeper
from workflows.task import Task

Recorded = tuple[str, str | None]
"""Workflow id, and the run when it is not the latest."""


@dataclass(frozen=True)
class Scenario:
    """``play`` brings a workflow to its end and names it.

    ``contains`` are words that its history must have, each ``event type`` or
    ``event type:activity, signal, update or workflow name``; ``closed`` is its last event.
    """

    play: Callable[[Pool], Awaitable[Recorded]]
    contains: frozenset[str]
    closed: str = "WORKFLOW_EXECUTION_COMPLETED"


def broken(step: str) -> ApplicationError:
    told = {"step": step, "tail": f"{step}: no such package", "log": "evidence/1.log"}
    return ApplicationError(f"{step} failed", told, type="preparation", non_retryable=True)


async def filled(pool: Pool) -> None:
    await pool.configure()
    await pool.until_ready(2)


async def deleted(pool: Pool) -> None:
    await pool.suspend(reason="deleted", force=True)
    await pool.keeper.result()


async def pool_life(pool: Pool) -> Recorded:
    await filled(pool)
    lease = await pool.grant("first")
    await pool.until_armed(lease)
    await pool.until_ready(2)
    await pool.release(lease)
    await pool.until_gone(lease.container)
    pool.host.commit = "c2"
    await pool.pushed()
    await pool.until(lambda s: s.commit == "c2" and s.refresh.state == "idle")
    await pool.until_ready(2)
    await deleted(pool)
    return pool.keeper.id, None


async def keeper_one_slot(pool: Pool) -> Recorded:
    """One container from its start to its retirement and nothing else: what a slot costs."""
    await pool.configure(size={"min": 1, "max": 1})
    await pool.until_ready(1)
    lease = await pool.grant("only")
    await pool.until_armed(lease)
    await pool.keeper.signal(PoolKeeper.pause)
    await pool.release(lease)
    await pool.until_gone(lease.container)
    await deleted(pool)
    return pool.keeper.id, None


async def keeper_handed_over(pool: Pool) -> Recorded:
    await filled(pool)
    first = await pool.run_id()
    await pool.claim("a")  # the other may find the keeper handing over, and be granted afterwards
    await asyncio.gather(pool.keeper.signal(PoolKeeper.handoff), pool.claim("b"))
    await pool.handed_over(first)
    return pool.keeper.id, first


async def container_claimed_released(pool: Pool) -> Recorded:
    await filled(pool)
    lease = await pool.grant("a")
    await pool.until_armed(lease)
    handle = pool.container(lease.container)
    await handle.execute_update(Container.extend, ExtendRequest(token=lease.token, ttl_s=7200))
    await pool.release(lease)
    await handle.result()
    return handle.id, None


async def container_kept(pool: Pool) -> Recorded:
    """A claim hook, a transfer, the warning and the end of a lease."""
    await pool.configure(hooks={"claim": ["make ready"]}, lease={"ttl": 4, "warn": 2})
    await pool.until_ready(2)
    lease = await pool.grant("a")
    await pool.until_armed(lease)
    passed = TransferRequest(claim_id="a", token=lease.token, holder="bob")
    await pool.keeper.execute_update(PoolKeeper.transfer, passed)
    handle = pool.container(lease.container)
    assert await handle.result() == "expired"
    return handle.id, None


async def container_abandoned(pool: Pool) -> Recorded:
    """A holder that promised heartbeats and gave none."""
    await pool.configure(lease={"heartbeat": 1, "grace": 0})
    await pool.until_ready(2)
    handle = pool.container((await pool.grant("a")).container)
    assert await handle.result() == "abandoned"
    return handle.id, None


async def keeper_of_groups(pool: Pool) -> Recorded:
    """Claims that share an Update, a transfer, and a group that waits for its containers."""
    await filled(pool)
    batch = ClaimBatch(requests=(ClaimRequest(claim_id="a"), ClaimRequest(claim_id="b")))
    answers = (await pool.keeper.execute_update(PoolKeeper.claims, batch)).answers
    leases = [answer.reply.lease for answer in answers if answer.reply and answer.reply.lease]
    passed = TransferRequest(claim_id="a", token=leases[0].token, holder="bob")
    moved = await pool.keeper.execute_update(PoolKeeper.transfer, passed)
    await pool.claim("many", count=2, wait_s=60)
    assert len((await pool.verdict("many")).leases) == 2
    for lease in (moved.lease, leases[1]):
        await pool.release(lease)
    await deleted(pool)
    return pool.keeper.id, None


async def task_done(pool: Pool) -> Recorded:
    await filled(pool)
    handle = await _task(pool)
    await handle.result()
    return handle.id, None


async def task_cancelled(pool: Pool) -> Recorded:
    await filled(pool)
    pool.host.gate("run_task:t")
    handle = await _task(pool)
    await pool.until_true(lambda: bool(pool.host.runs))
    await handle.cancel()
    with suppress(WorkflowFailureError):
        await handle.result()
    return handle.id, None


async def _task(pool: Pool) -> WorkflowHandle[Task, TaskResult]:
    return await pool.client.start_workflow(
        Task.run,
        TaskInput(pool=pool.name, command=("make",)),
        id=task_workflow_id(pool.name, "t"),
        task_queue=WORKFLOW_QUEUE,
    )


async def container_expired(pool: Pool) -> Recorded:
    await filled(pool)
    handle = pool.container((await pool.grant("a", ttl_s=1)).container)
    assert await handle.result() == "expired"
    return handle.id, None


async def container_failed(pool: Pool) -> Recorded:
    pool.host.failing["install_in"] = broken("install")
    await pool.configure()
    await pool.until(lambda s: s.failure is not None)
    handle = pool.container(pool.host.subjects("install_in")[0])
    assert await handle.result() == "failed"
    return handle.id, None


async def container_corpse(pool: Pool) -> Recorded:
    await filled(pool)
    pool.host.dead.update(pool.host.containers)
    handle = pool.container((await pool.grant("a")).container)
    assert await handle.result() == "died"
    return handle.id, None


async def snapshot_built(pool: Pool) -> Recorded:
    await pool.configure(build=["make"], verify=["make smoke"])
    await pool.until(lambda s: s.commit == "c1")
    ident = snapshot_workflow_id(pool.name, "f-c1")
    await pool.client.get_workflow_handle(ident).result()
    return ident, None


async def snapshot_failed(pool: Pool) -> Recorded:
    pool.host.failing["builder_step:install"] = broken("install")
    await pool.configure()
    await pool.until(lambda s: s.failure is not None)
    ident = snapshot_workflow_id(pool.name, "f-c1")
    await pool.client.get_workflow_handle(ident).result()
    return ident, None


async def wait_granted(pool: Pool) -> Recorded:
    await pool.configure()
    await pool.claim("a", wait_s=60)
    assert (await pool.verdict("a")).lease is not None
    return pool.wait("a").id, None


async def wait_timed_out(pool: Pool) -> Recorded:
    pool.host.gate("install_in")
    await pool.configure()
    await pool.claim("a", wait_s=0.2)
    assert (await pool.verdict("a")).lease is None
    return pool.wait("a").id, None


def _has(*words: str) -> frozenset[str]:
    return frozenset(words)


def _activities(*names: str) -> frozenset[str]:
    return frozenset(f"ACTIVITY_TASK_SCHEDULED:{name}" for name in names)


_PREPARED = _activities("place", "create_container", "clone_in", "install_in")
_TOLD = "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED"
_HEARD = "WORKFLOW_EXECUTION_SIGNALED"
_STARTED = "START_CHILD_WORKFLOW_EXECUTION_INITIATED"
_UPDATED = "WORKFLOW_EXECUTION_UPDATE_ACCEPTED"

SCENARIOS: dict[str, Scenario] = {
    "pool_life": Scenario(
        pool_life,
        _has(
            f"{_UPDATED}:configure", f"{_UPDATED}:claim", f"{_UPDATED}:suspend",
            f"{_STARTED}:Snapshot", f"{_STARTED}:Container", f"{_TOLD}:claimed",
            f"{_TOLD}:release", f"{_TOLD}:retire", f"{_HEARD}:pushed", f"{_HEARD}:release",
            f"{_HEARD}:news", f"{_HEARD}:snapshot_news",
        ) | _activities("look"),
    ),
    "keeper_one_slot": Scenario(
        keeper_one_slot, _has(f"{_TOLD}:claimed", f"{_TOLD}:release", f"{_HEARD}:news")
    ),
    "keeper_handed_over": Scenario(
        keeper_handed_over,
        _has(f"{_UPDATED}:claim", f"{_TOLD}:claimed", f"{_HEARD}:handoff"),
        closed="WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
    ),
    "container_claimed_released": Scenario(
        container_claimed_released,
        _PREPARED
        | _activities("arm_lease", "extend_lease", "close_lease", "save_work", "remove_container")
        | _has(f"{_HEARD}:claimed", f"{_HEARD}:release", f"{_UPDATED}:extend"),
    ),
    "container_kept": Scenario(
        container_kept,
        _PREPARED
        | _activities("run_hook", "warn_lease", "close_lease", "save_work")
        | _has(f"{_HEARD}:claimed", "TIMER_FIRED"),
    ),
    "container_abandoned": Scenario(
        container_abandoned,
        _PREPARED | _activities("last_beat", "close_lease", "save_work") | _has("TIMER_FIRED"),
    ),
    "keeper_of_groups": Scenario(
        keeper_of_groups,
        _has(
            f"{_UPDATED}:claims", f"{_UPDATED}:transfer", f"{_UPDATED}:claim", f"{_STARTED}:Wait",
            f"{_TOLD}:claimed", f"{_TOLD}:verdict",
        ),
    ),
    "task_done": Scenario(
        task_done, _activities("run_task") | _has(f"{_TOLD}:claim", f"{_HEARD}:verdict")
    ),
    "task_cancelled": Scenario(
        task_cancelled,
        _activities("run_task") | _has("ACTIVITY_TASK_CANCEL_REQUESTED"),
        closed="WORKFLOW_EXECUTION_CANCELED",
    ),
    "container_expired": Scenario(
        container_expired,
        _PREPARED | _activities("close_lease", "save_work") | _has("TIMER_FIRED"),
    ),
    "container_failed": Scenario(
        container_failed, _PREPARED | _activities("remove_container") | _has("ACTIVITY_TASK_FAILED")
    ),
    "container_corpse": Scenario(
        container_corpse,
        _PREPARED
        | _activities("arm_lease", "remove_container")
        | _has("ACTIVITY_TASK_FAILED", f"{_HEARD}:claimed"),
    ),
    "snapshot_built": Scenario(
        snapshot_built,
        _activities(
            "find_snapshot", "start_builder", "builder_step", "commit_builder", "verify_image",
            "tag_snapshot", "remove_builder",
        ) | _has(f"{_TOLD}:snapshot_news"),
    ),
    "snapshot_failed": Scenario(
        snapshot_failed,
        _activities("builder_step", "remove_builder")
        | _has("ACTIVITY_TASK_FAILED", f"{_TOLD}:snapshot_news"),
    ),
    "wait_granted": Scenario(wait_granted, _has(f"{_HEARD}:verdict", "TIMER_STARTED")),
    "wait_timed_out": Scenario(
        wait_timed_out, _has("TIMER_FIRED", f"{_TOLD}:cancel", f"{_HEARD}:verdict")
    ),
}  # fmt: skip
