"""Time-outs and retries of every activity, in one place.

Keyword arguments for ``workflow.execute_activity``. Every call has an end; activities that
prepare give up on permanent errors at once (``non_retryable``), those that clean up go on until
they have succeeded.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TypedDict

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType


class ActivityOptions(TypedDict, total=False):
    """The part of ``execute_activity``'s keywords that is set here."""

    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy
    cancellation_type: ActivityCancellationType


HEARTBEAT = timedelta(seconds=10)
_FEW = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(seconds=10),
    maximum_attempts=5,
)
_FOR_EVER = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=20)
)

LOOK = ActivityOptions(
    start_to_close_timeout=timedelta(minutes=15), heartbeat_timeout=HEARTBEAT, retry_policy=_FEW
)
# Those without a heartbeat are given up after a multiple of what they take: that is how long the
# work of a killed worker lies still before another one takes it up.
PLACE = ActivityOptions(start_to_close_timeout=timedelta(seconds=5), retry_policy=_FOR_EVER)
CREATE = ActivityOptions(
    start_to_close_timeout=timedelta(seconds=120),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=_FEW,
    # What was created in spite of a cancelling must be known, or nobody removes it.
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
ARM = ActivityOptions(start_to_close_timeout=timedelta(seconds=10), retry_policy=_FOR_EVER)
ARM_WITH_SECRETS = ActivityOptions(
    start_to_close_timeout=timedelta(minutes=3), retry_policy=_FOR_EVER
)
# A command runs as long as its lease allows; a try that finds it running follows it, so trying
# again starts nothing twice.
RUN = ActivityOptions(
    start_to_close_timeout=timedelta(days=31),
    heartbeat_timeout=HEARTBEAT,
    retry_policy=_FOR_EVER,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
# Soon given up: the lease's end waits behind it.
GLANCE = ActivityOptions(
    start_to_close_timeout=timedelta(seconds=10),
    schedule_to_close_timeout=timedelta(seconds=30),
    retry_policy=_FOR_EVER,
)
CLEAN = ActivityOptions(start_to_close_timeout=timedelta(seconds=45), retry_policy=_FOR_EVER)
SAVE = ActivityOptions(
    start_to_close_timeout=timedelta(minutes=15),
    heartbeat_timeout=HEARTBEAT,
    # Minutes of patience with an engine that restarts: what is not saved is lost a day later.
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=2),
        maximum_interval=timedelta(seconds=30),
        maximum_attempts=12,
    ),
)
WATCH = ActivityOptions(
    start_to_close_timeout=timedelta(hours=12),
    heartbeat_timeout=timedelta(seconds=15),
    retry_policy=RetryPolicy(
        initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=5)
    ),
)


def preparing(limit_s: float) -> ActivityOptions:
    """Options of a step that may take ``limit_s`` seconds by the pool file's ``timeouts``.

    The activity ends the step itself at the limit, with the output so far; the time-out here is
    only the backstop behind it.
    """
    return ActivityOptions(
        start_to_close_timeout=timedelta(seconds=limit_s + 60),
        heartbeat_timeout=HEARTBEAT,
        retry_policy=_FEW,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )
