"""What every test can use."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack

import hypothesis
import pytest

from greenroom.services.engine_setup import engine_in_use
from tests.chaos.recorder import Recorder

hypothesis.settings.register_profile("greenroom", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("greenroom")


@pytest.fixture
def checked() -> Iterator[Recorder]:
    """A recorder; the test fails when what it recorded breaks one of the six properties."""
    recorder = Recorder()
    yield recorder
    violations = recorder.check()
    assert not violations, "\n".join(str(violation) for violation in violations)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, object, object]:
    """No collection of garbage while a failure's source is compiled for its report.

    Python 3.11 fails in that ("AST constructor recursion depth mismatch") when coroutines of
    workflows are thrown away meanwhile, and the report with it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


_engine = ExitStack()


def pytest_sessionstart() -> None:
    """While the tests run, no ``down`` of theirs stops the engine under the other tests."""
    if os.geteuid() == 0:
        _engine.enter_context(engine_in_use())


def pytest_sessionfinish() -> None:
    _engine.close()
