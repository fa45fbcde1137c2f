"""Errors cross into Temporal by their code; heartbeats and cancelling outside activities."""

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.boundary import beating, boundary, check_cancelled
from greenroom.core.errors import BY_CODE, EngineError, GreenroomError, PreparationError


@pytest.mark.parametrize("kind", sorted(BY_CODE.values(), key=lambda kind: kind.code))
def test_every_error_travels_by_its_code(kind: type[GreenroomError]) -> None:
    @boundary
    def fails() -> None:
        raise kind("the message", step="build", tail="last line")

    with pytest.raises(ApplicationError) as failed:
        fails()
    assert failed.value.type == kind.code
    assert failed.value.message == "the message"
    assert failed.value.non_retryable is not kind.retryable
    assert failed.value.details[0] == {"step": "build", "tail": "last line"}


async def test_coroutines_have_the_same_boundary() -> None:
    @boundary
    async def fails() -> None:
        raise EngineError("no")

    with pytest.raises(ApplicationError) as failed:
        await fails()
    assert not failed.value.non_retryable


def test_a_bug_stays_what_it_is() -> None:
    @boundary
    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        fails()


def test_outside_an_activity_nothing_beats_and_nothing_is_cancelled() -> None:
    with beating():
        check_cancelled()


def test_inside_one_it_beats_at_once() -> None:
    environment = ActivityEnvironment()
    beats: list[object] = []
    environment.on_heartbeat = lambda *details: beats.append(details)

    def works() -> str:
        with beating():
            check_cancelled()
            return "done"

    assert environment.run(works) == "done"
    assert beats


def test_errors_keep_their_cause() -> None:
    @boundary
    def fails() -> None:
        raise PreparationError("x")

    with pytest.raises(ApplicationError) as failed:
        fails()
    assert isinstance(failed.value.__cause__, PreparationError)
