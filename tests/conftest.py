"""What every test can use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.recorder import Recorder


@pytest.fixture
def checked() -> Iterator[Recorder]:
    """A recorder; the test fails when what it recorded breaks one of the six properties."""
    recorder = Recorder()
    yield recorder
    violations = recorder.check()
    assert not violations, "\n".join(str(violation) for violation in violations)
