"""When a call to Temporal is made again, how long in all, and what its failures become."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from temporalio.client import (
    RPCTimeoutOrCancelledError,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
)
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from greenroom.core.errors import (
    DrainingError,
    GreenroomError,
    NotFoundError,
    TemporalError,
    from_code,
)
from greenroom.core.lifecycle import EndReason

PAUSE_FIRST_S, PAUSE_MAX_S = 0.02, 0.5
_CLOSED_UNDER_US = "AcceptedUpdateCompletedWorkflow"
_NOT_READY = "WorkflowNotReadyFailure"

T = TypeVar("T")


_FAILURES = (
    RPCError,
    RPCTimeoutOrCancelledError,
    WorkflowUpdateFailedError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
)


class WorkflowGoneError(NotFoundError):
    """Temporal knows no such running workflow."""


async def patiently(call: Callable[[], Awaitable[T]], within_s: float) -> T:
    """``call`` until it answers or fails for good, ``within_s`` in all."""
    deadline = time.monotonic() + within_s
    pause = PAUSE_FIRST_S
    while True:
        try:
            return await _bounded(call, deadline)
        except _FAILURES as error:
            translated = _translate(error)
            if not _worth_another_try(error, translated):
                raise translated from error
            if time.monotonic() + pause >= deadline:
                raise _too_late(within_s, translated) from error
        except TimeoutError as error:
            raise _too_late(within_s, None) from error
        await asyncio.sleep(pause)
        pause = min(2 * pause, PAUSE_MAX_S)


async def _bounded(call: Callable[[], Awaitable[T]], deadline: float) -> T:
    """One try; raises TimeoutError at the deadline, whatever the call itself does then."""
    task = asyncio.ensure_future(call())
    try:
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
    except asyncio.CancelledError:
        _abandon(task)
        raise
    if not done:
        _abandon(task)
        raise TimeoutError
    return task.result()


def _abandon(task: asyncio.Future[Any]) -> None:
    task.cancel()
    # Whatever a cancelled call still says is nobody's business any more.
    task.add_done_callback(lambda late: late.cancelled() or late.exception())


def _translate(error: BaseException) -> GreenroomError:
    """What a failure of the SDK means to a caller of Greenroom."""
    if isinstance(error, WorkflowUpdateFailedError):
        return _from_failure(error.cause)
    gone = isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND
    if gone or isinstance(error, WorkflowQueryRejectedError):
        return WorkflowGoneError("no such workflow is running")
    return TemporalError(f"Temporal does not answer: {error}")


def _from_failure(cause: BaseException) -> GreenroomError:
    if isinstance(cause, ApplicationError):
        told = cause.details[0] if cause.details and isinstance(cause.details[0], dict) else {}
        return from_code(cause.type or "", cause.message, told)
    return TemporalError(f"Temporal answered: {cause}")


def _worth_another_try(error: BaseException, translated: GreenroomError) -> bool:
    if isinstance(translated, DrainingError):
        return True
    if isinstance(error, WorkflowUpdateFailedError):
        cause = error.cause
        return isinstance(cause, ApplicationError) and cause.type == _CLOSED_UNDER_US
    if not isinstance(error, RPCError):
        return False
    if error.status in (RPCStatusCode.RESOURCE_EXHAUSTED, RPCStatusCode.UNAVAILABLE):
        return True
    return error.status is RPCStatusCode.FAILED_PRECONDITION and any(
        detail.type_url.endswith(_NOT_READY) for detail in error.grpc_status.details
    )


def _too_late(within_s: float, last: GreenroomError | None) -> TemporalError:
    why = f": {last.message}" if last else " (is a worker running?)"
    return TemporalError(f"no answer from Temporal within {within_s:g} s{why}")


def wait_failed(claim_id: str, error: WorkflowFailureError) -> GreenroomError:
    if isinstance(error.cause, CancelledError):
        return NotFoundError(f"claim {claim_id} was cancelled", reason=str(EndReason.CANCELLED))
    return _from_failure(error.cause)
