"""Tasks over Temporal: started, looked at, cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError

from greenroom.client.retries import WorkflowGoneError, patiently
from greenroom.core.errors import ConflictError, GreenroomError, NotFoundError, from_code
from greenroom.core.names import WORKFLOW_QUEUE, task_workflow_id
from greenroom.core.task_messages import TaskInput, TaskResult, TaskStatus

ANSWER_S = 30.0


@dataclass(frozen=True)
class FoundTask:
    """A Task. ``status`` while it runs; then ``result``, ``error``, or none (it was cancelled)."""

    workflow: str
    state: str
    status: TaskStatus | None = None
    result: TaskResult | None = None
    error: GreenroomError | None = None


async def start_task(client: Client, asked: TaskInput) -> str:
    """Start a Task under its claim's id; one that runs is that one. Returns the workflow's id.

    Raises ConflictError: a Task of that id has ended already.
    """
    ident = task_workflow_id(asked.pool, asked.claim_id)

    async def once() -> None:
        await client.start_workflow(
            "Task",
            asked,
            id=ident,
            task_queue=WORKFLOW_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            static_summary=f"Task in pool {asked.pool}",
        )

    try:
        await patiently(once, ANSWER_S)
    except WorkflowAlreadyStartedError as error:
        raise ConflictError(
            f"a task with the claim id {asked.claim_id} has ended already; use another id"
        ) from error
    return ident


async def find_task(client: Client, workflow_id: str, *, wait_s: float = 0.0) -> FoundTask | None:
    """What a Task does or came to, after at most ``wait_s`` of waiting for its end; None: no such.

    Raises TemporalError.
    """
    handle = client.get_workflow_handle(workflow_id, result_type=TaskResult)
    try:
        seen = await patiently(handle.describe, ANSWER_S)
    except WorkflowGoneError:
        return None
    if seen.workflow_type != "Task":
        return None
    if seen.status is WorkflowExecutionStatus.RUNNING and wait_s > 0:
        await _ended_within(client, workflow_id, wait_s)
        seen = await patiently(handle.describe, ANSWER_S)
    if seen.status is WorkflowExecutionStatus.RUNNING:
        status: TaskStatus = await patiently(
            lambda: handle.query("state", result_type=TaskStatus), ANSWER_S
        )
        return FoundTask(workflow_id, "running", status=status)
    state = seen.status.name.lower() if seen.status else "unknown"
    try:
        return FoundTask(workflow_id, state, result=await handle.result())
    except WorkflowFailureError as error:
        return FoundTask(workflow_id, state, error=_why(state, error))


async def cancel_task(client: Client, workflow_id: str) -> None:
    """Ask a Task to end: command killed, work saved, lease over; one that has ended is success."""
    try:
        await patiently(client.get_workflow_handle(workflow_id).cancel, ANSWER_S)
    except WorkflowGoneError:
        return


async def _ended_within(client: Client, workflow_id: str, wait_s: float) -> None:
    waiting = asyncio.ensure_future(client.get_workflow_handle(workflow_id).result())
    try:
        await asyncio.wait({waiting}, timeout=wait_s)
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


def _why(state: str, error: WorkflowFailureError) -> GreenroomError | None:
    """Why it has no result; None for one that was cancelled, which is no failure."""
    cause = error.cause
    if isinstance(cause, CancelledError):
        return None
    if isinstance(cause, ApplicationError) and cause.type:
        return from_code(cause.type, cause.message)
    return NotFoundError(f"the task is {state}: {cause}")
