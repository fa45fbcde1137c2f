"""Errors: one table, and they survive a wire."""

from __future__ import annotations

import pytest

from greenroom.core import errors
from greenroom.core.errors import BY_CODE, GreenroomError, from_code

EXIT_CODES = {1, 2, 3, 4, 5}
EXEC_CODES = range(120, 126)


@pytest.mark.parametrize("cls", BY_CODE.values(), ids=lambda c: c.code)
def test_every_error_has_its_place_in_the_table(cls: type[GreenroomError]) -> None:
    assert cls.exit_code in EXIT_CODES
    assert cls.exec_exit_code in EXEC_CODES
    assert 400 <= cls.http_status < 600
    assert cls.code in BY_CODE
    assert cls.__name__ in (errors.__doc__ or "") or cls.__name__ == "GreenroomError"


def test_codes_are_unique() -> None:
    found = [
        v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, GreenroomError)
    ]
    assert len({cls.code for cls in found}) == len(found) == len(BY_CODE)


@pytest.mark.parametrize("cls", BY_CODE.values(), ids=lambda c: c.code)
def test_an_error_is_rebuilt_on_the_far_side(cls: type[GreenroomError]) -> None:
    error = cls("what and why", step="install", seconds=3)
    again = from_code(error.code, error.message, error.details)
    assert type(again) is cls
    assert (str(again), again.details) == ("what and why", {"step": "install", "seconds": 3})


def test_an_unknown_code_is_still_an_error_of_ours() -> None:
    assert type(from_code("of-a-later-version", "x")) is GreenroomError


def test_only_backends_may_be_retried_unchanged() -> None:
    retryable = {cls for cls in BY_CODE.values() if cls.retryable}
    assert retryable == {cls for cls in BY_CODE.values() if issubclass(cls, errors.BackendError)}
