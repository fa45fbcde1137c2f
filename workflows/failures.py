"""How errors cross the border between workflows, their callers and their activities."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ApplicationErrorCategory,
    CancelledError,
)
from temporalio.exceptions import (
    TimeoutError as TemporalTimeoutError,
)

with workflow.unsafe.imports_passed_through():
    from greenroom.core.errors import GreenroomError
    from greenroom.core.records import Failure


def refusal(error: GreenroomError) -> ApplicationError:
    """The failure of a message's caller: ``type`` is the error's code."""
    return ApplicationError(
        error.message,
        error.details,
        type=error.code,
        non_retryable=True,
        category=ApplicationErrorCategory.BENIGN,
    )


def code_of(error: BaseException) -> str:
    """The ``code`` of the Greenroom error behind an activity's failure; '' for any other."""
    cause = error.cause if isinstance(error, ActivityError) else error
    return (cause.type or "") if isinstance(cause, ApplicationError) else ""


def from_activity(error: ActivityError, step: str, now: float) -> Failure:
    """What to show of a failed step: reason, last lines of output, where the whole log is."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        told = cause.details[0] if cause.details and isinstance(cause.details[0], dict) else {}
        return Failure(
            step=str(told.get("step") or step),
            reason=cause.message,
            tail=str(told.get("tail") or ""),
            log=str(told.get("log") or ""),
            at=now,
            permanent=cause.non_retryable,
        )
    if isinstance(cause, TemporalTimeoutError):
        kind = cause.type.name.lower().replace("_", " ") if cause.type else "unknown"
        return Failure(step=step, reason=f"{step} timed out ({kind})", at=now, permanent=False)
    if isinstance(cause, CancelledError):
        return Failure(step="cancelled", reason=f"{step} was cancelled", at=now, permanent=False)
    return Failure(step=step, reason=str(cause or error), at=now, permanent=False)
