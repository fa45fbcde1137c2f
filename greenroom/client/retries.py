"""When a call to Temporal is made again, how long in all, and what its failures become."""

from __future__ import annotations

import asyncio
import random
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
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from greenroom.core.errors import (
    DrainingError,
    GreenroomError,
    NotFoundError,
    OverloadedError,
    TemporalError,
    from_code,
)
from greenroom.core.lifecycle import EndReason

PAUSE_FIRST_S, PAUSE_MAX_S = 0.02, 0.5
REFUSED_S = 5.0
"""How long nothing but refused connections counts as a restart and not as a server that does not
run: our own is back within a second, the supervisor's pause and a busy machine included."""
NO_RETRIES = RetryConfig(initial_interval_millis=10, max_elapsed_time_millis=20, max_retries=1)
"""For clients whose calls all go through ``patiently``: with the SDK's own retries, a refused
connection is told after 10 s only, and too many Updates at once after 14 s."""
_CROWDED_FIRST_S, _CROWDED_MAX_S = 0.25, 4.0
_PASSING = frozenset(
    [
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.RESOURCE_EXHAUSTED,
        RPCStatusCode.UNKNOWN,  # a connection that breaks in the middle of a call
        RPCStatusCode.INTERNAL,
        RPCStatusCode.ABORTED,
        RPCStatusCode.DATA_LOSS,
        RPCStatusCode.OUT_OF_RANGE,
    ]
)
"""What the SDK's own retries would ask again."""
_IN_FLIGHT_LIMIT = "in-flight updates"
_REFUSED = "tcp connect error"
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


async def patiently(
    call: Callable[[], Awaitable[T]], within_s: float, *, refused_s: float | None = None
) -> T:
    """``call`` until it answers or fails for good, ``within_s`` in all.

    A server that does nothing but refuse connections is given up after ``refused_s``, which is
    ``REFUSED_S`` when it is omitted.
    """
    borne_s = REFUSED_S if refused_s is None else refused_s
    deadline = time.monotonic() + within_s
    pause = PAUSE_FIRST_S
    refused_since: float | None = None
    while True:
        began = time.monotonic()
        try:
            return await _bounded(call, deadline)
        except _FAILURES as error:
            translated = _translate(error)
            if not _worth_another_try(error, translated):
                raise translated from error
            refused_since = (refused_since or began) if _refused(error) else None
            if refused_since and time.monotonic() - refused_since >= borne_s:
                raise translated from error
            if isinstance(translated, OverloadedError):
                pause = _crowded(pause)
            if time.monotonic() + pause >= deadline:
                raise _too_late(within_s, translated) from error
        except TimeoutError as error:
            raise _too_late(within_s, None) from error
        await asyncio.sleep(pause)
        pause = min(2 * pause, max(pause, PAUSE_MAX_S))


def _crowded(pause: float) -> float:
    """A pause after which not all that were refused together come back together.

    Each refusal makes the server abort what it had admitted: asking again soon makes it worse.
    """
    longest = min(max(2 * pause, _CROWDED_FIRST_S), _CROWDED_MAX_S)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - nothing secret


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
    if _over_the_limit(error):
        return OverloadedError(
            f"Temporal takes no more Updates of this workflow at once ({error}): claim through "
            "the host's API, which sends few at a time, or raise history.maxInFlightUpdates in "
            "the server's dynamic configuration (0: no limit)"
        )
    if _refused(error):
        return TemporalError("Temporal refuses connections: it is not running where it should")
    return TemporalError(f"Temporal does not answer: {error}")


def _over_the_limit(error: BaseException) -> bool:
    """Whether the server's limit of Updates in flight on one workflow refused it."""
    return (
        isinstance(error, RPCError)
        and error.status is RPCStatusCode.RESOURCE_EXHAUSTED
        and _IN_FLIGHT_LIMIT in error.message
    )


def _refused(error: BaseException) -> bool:
    """Whether nothing listens at the server's port."""
    return (
        isinstance(error, RPCError)
        and error.status is RPCStatusCode.UNAVAILABLE
        and _REFUSED in error.message
    )


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
    if error.status in _PASSING:
        return True
    return error.status is RPCStatusCode.FAILED_PRECONDITION and any(
        detail.type_url.endswith(_NOT_READY) for detail in error.grpc_status.details
    )


def _too_late(within_s: float, last: GreenroomError | None) -> TemporalError:
    if isinstance(last, OverloadedError):
        return last
    why = f": {last.message}" if last else " (is a worker running?)"
    return TemporalError(f"no answer from Temporal within {within_s:g} s{why}")


def wait_failed(claim_id: str, error: WorkflowFailureError) -> GreenroomError:
    if isinstance(error.cause, CancelledError):
        return NotFoundError(f"claim {claim_id} was cancelled", reason=str(EndReason.CANCELLED))
    return _from_failure(error.cause)
