"""Tasks on a fake host: each ends with its lease ended, whatever happened."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.service import RPCError

from greenroom.core.lifecycle import EndReason
from greenroom.core.names import WORKFLOW_QUEUE, task_workflow_id
from greenroom.core.task_messages import RunResult, TaskInput, TaskResult
from tests.workflows.pools import Pool, refused
from workflows.task import Task

Handle = WorkflowHandle[Task, TaskResult]


async def start(pool: Pool, claim_id: str, /, **fields: object) -> Handle:
    given = TaskInput.model_validate({"pool": pool.name, "command": ["make"], **fields})
    ident = task_workflow_id(pool.name, claim_id)
    return await pool.client.start_workflow(Task.run, given, id=ident, task_queue=WORKFLOW_QUEUE)


async def nothing_is_held(pool: Pool) -> None:
    await pool.until(lambda s: s.queue == 0 and not any(c.claim_id for c in s.containers))


async def test_a_task_claims_runs_saves_and_releases(full: Pool) -> None:
    full.host.results["a"] = RunResult(outcome="exited", exit_code=3, stdout_tail="out")
    task = await start(full, "a", env={"A": "1"}, timeout_s=60, labels={"job": "7"})
    result = await task.result()
    assert (result.outcome, result.exit_code, result.stdout_tail) == ("exited", 3, "out")
    assert (result.claim_id, result.warm, result.commit) == ("a", True, "c1")
    assert result.saved is not None
    assert result.saved.files == ("work.bundle",)
    (run,) = full.host.runs
    assert (run.command, run.env, run.timeout_s) == (("make",), {"A": "1"}, 60)
    assert run.lease.labels == {"job": "7"}
    await full.until_gone(result.container)
    with pytest.raises(RPCError, match="not found"):
        await full.wait("a").describe()


async def test_a_cancelled_task_ends_its_command_and_its_lease(full: Pool) -> None:
    full.host.gate("run_task:a")
    task = await start(full, "a")
    await full.until_true(lambda: bool(full.host.runs))
    await task.cancel()
    with pytest.raises(WorkflowFailureError) as caught:
        await task.result()
    assert isinstance(caught.value.cause, CancelledError)
    (end,) = full.host.ends
    assert (end.claim_id, end.reason, end.save) == ("a", EndReason.RELEASED, True)
    await nothing_is_held(full)


async def test_a_task_that_waits_can_be_cancelled_and_gives_up_in_time(pool: Pool) -> None:
    pool.host.gate("clone_in")
    await pool.configure()
    late, waiting = await start(pool, "late", wait_s=0.2), await start(pool, "waiting")
    with refused("no_container"):
        await late.result()
    await pool.until(lambda status: status.queue == 1)
    await waiting.cancel()
    with pytest.raises(WorkflowFailureError):
        await waiting.result()
    assert (await pool.status()).queue == 0
    pool.host.gates["clone_in"].set()
    assert not pool.host.runs


async def test_a_task_can_be_cancelled_from_its_first_moment_on(pool: Pool) -> None:
    """Also while its claim is on the way to the keeper: an SDK's Signal then takes no notice."""
    pool.host.gate("clone_in")
    await pool.configure()
    tasks = []
    for number in range(12):
        task = await start(pool, f"t{number}")
        await asyncio.sleep(number * 0.002)
        await task.cancel()
        tasks.append(task)
    for task in tasks:
        with pytest.raises(WorkflowFailureError) as caught:
            await task.result()
        assert isinstance(caught.value.cause, CancelledError)
    assert (await pool.status()).queue == 0


async def test_a_dead_container_costs_a_task_nothing_before_its_command_runs(full: Pool) -> None:
    gate = full.host.gate("arm_lease")
    task = await start(full, "a")
    await full.until_true(lambda: bool(full.host.subjects("arm_lease")))
    (dead,) = full.host.subjects("arm_lease")
    full.host.dead.add(dead)
    gate.set()
    result = await task.result()
    assert result.outcome == "exited"
    assert result.container != dead
    assert len(full.host.runs) == 1


async def test_a_container_that_dies_under_the_command_is_told_with_what_was_saved(
    full: Pool,
) -> None:
    gate = full.host.gate("run_task:a")
    full.host.results["a"] = RunResult(outcome="died", detail="the container does not run")
    task = await start(full, "a")
    await full.until_true(lambda: bool(full.host.runs))
    await full.kill(full.host.runs[0].lease.container)
    gate.set()
    result = await task.result()
    assert (result.outcome, result.exit_code) == ("died", None)
    assert result.saved is not None
    assert result.saved.state == "saved"
    assert result.attempt == 1


async def test_only_what_is_said_to_be_safe_is_started_again(full: Pool) -> None:
    full.host.results["a"] = full.host.results["b"] = RunResult(outcome="lost", detail="?")
    once, twice = await start(full, "a"), await start(full, "b", retry={"attempts": 2})
    assert (await once.result()).outcome == "lost"
    second = await twice.result()
    assert (second.outcome, second.claim_id, second.attempt) == ("exited", "b-2", 2)
    assert [run.lease.claim_id for run in full.host.runs].count("a") == 1


async def test_a_pool_that_is_taken_down_ends_its_tasks(full: Pool) -> None:
    full.host.gate("run_task:a")
    task = await start(full, "a")
    await full.until_true(lambda: bool(full.host.runs))
    full.host.results["a"] = RunResult(outcome="ended", detail="the lease ended: down")
    await full.suspend(force=True)
    full.host.gates["run_task:a"].set()
    result = await task.result()
    assert result.outcome == "ended"
    assert result.saved is not None


async def test_a_task_that_waits_for_another_container_hears_that_its_pool_goes_down(
    full: Pool,
) -> None:
    """The refusal comes after a grant, whose container was dead."""
    full.host.gate("clone_in")
    gate = full.host.gate("arm_lease")
    before = (await full.status()).containers
    others = [await full.claim(f"other-{number}") for number in range(1, len(before))]
    task = await start(full, "a")
    await full.until(lambda status: status.counts.claimed == len(others) + 1)
    (dead,) = [s.container for s in (await full.status()).containers if s.claim_id == "a"]
    full.host.dead.add(dead)
    gate.set()
    await full.until(lambda status: status.queue == 1)
    await full.suspend(force=True)
    with refused("no_container"):
        await task.result()
    full.host.gates["clone_in"].set()
    await nothing_is_held(full)


@pytest.mark.parametrize("wrong", [{"claim_id": "a" * 3000}, {"pool": "p" * 2000}])
async def test_a_task_with_a_name_that_cannot_be_says_so(pool: Pool, wrong: dict[str, str]) -> None:
    with refused("usage"):
        await (await start(pool, "a", **wrong)).result()
    assert not pool.host.runs


async def test_a_task_without_a_pool_says_so(pool: Pool) -> None:
    task = await start(pool, "a")
    with refused("not_found"):
        await task.result()


async def test_secrets_in_the_clear_are_refused_before_they_go_further(full: Pool) -> None:
    task = await start(full, "a", secrets={"TOKEN": "s3cr3t"})
    with refused("usage") as told:
        await task.result()
    assert "secrets" in told[0].message
    assert not full.host.runs
