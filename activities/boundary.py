"""The edge between activities and Temporal: errors become failures, long calls heartbeat.

An error that Greenroom raised on purpose travels by its code; anything else is a bug and stays as
it is, which Temporal retries and shows with its stack.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError

from greenroom.core.errors import GreenroomError

F = TypeVar("F", bound=Callable[..., Any])
_BEAT_S = 3.0


def defined_by(holder: object) -> list[Callable[..., Any]]:
    """The methods of an object that are activities."""
    methods = [getattr(holder, name) for name in dir(holder)]
    return [method for method in methods if hasattr(method, "__temporal_activity_definition")]


def boundary(function: F) -> F:
    """Turn GreenroomErrors into ApplicationErrors: type, message, details, retryable or not."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as the function)
            try:
                return await function(*args, **kwargs)
            except GreenroomError as error:
                raise _failure(error) from error

        return cast("F", awaited)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as the function)
        try:
            return function(*args, **kwargs)
        except GreenroomError as error:
            raise _failure(error) from error

    return cast("F", called)


def _failure(error: GreenroomError) -> ApplicationError:
    return ApplicationError(
        error.message, dict(error.details), type=error.code, non_retryable=not error.retryable
    )


@contextmanager
def beating() -> Iterator[None]:
    """Heartbeat from a thread of its own while the block runs; outside an activity do nothing."""
    if not activity.in_activity():
        yield
        return
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(_BEAT_S):
            activity.heartbeat()

    activity.heartbeat()
    # The copy brings the activity's own context along, by which heartbeat() knows its activity.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(beat,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def check_cancelled() -> None:
    """Raise CancelledError when the activity is to stop; outside an activity do nothing."""
    if activity.in_activity() and activity.is_cancelled():
        raise CancelledError("the step was ended")
