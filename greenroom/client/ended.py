"""Claims that ended, found by what their containers' workflows are labelled with."""

from __future__ import annotations

from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from greenroom.client.retries import patiently
from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import EndedClaim
from greenroom.core.names import check_claim_id, container_workflow_id

_ANSWER_S = 30.0


async def ended_claim(temporal: Client, claim_id: str, *, pool: str = "") -> EndedClaim | None:
    """How a claim ended, however long ago (as long as Temporal keeps its container's workflow).

    None when no container was ever armed for it. Raises UsageError, TemporalError.
    """
    check_claim_id(claim_id)
    query = f'GreenroomClaim = "{claim_id}" AND WorkflowType = "Container"'
    if pool:
        query += f' AND GreenroomPool = "{pool}"'

    async def once() -> EndedClaim | None:
        found = [execution async for execution in temporal.list_workflows(query)]
        if not found:
            return None
        return await _told(temporal, claim_id, max(found, key=lambda one: one.start_time))

    return await patiently(once, _ANSWER_S)


async def _told(temporal: Client, claim_id: str, found: WorkflowExecution) -> EndedClaim:
    pool, _, container = found.id.removeprefix(container_workflow_id("", "")[:-1]).partition("/")
    reason: EndReason | None = None
    if found.status is WorkflowExecutionStatus.COMPLETED:
        handle = temporal.get_workflow_handle(found.id, run_id=found.run_id, result_type=str)
        reason = EndReason(await handle.result())
    elif found.status is not WorkflowExecutionStatus.RUNNING:
        reason = EndReason.LOST  # somebody ended the workflow itself
    return EndedClaim(
        claim_id=claim_id,
        pool=pool,
        container=container,
        reason=reason,
        ended_at=found.close_time.timestamp() if found.close_time else 0.0,
    )
