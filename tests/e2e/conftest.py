"""Private stacks for the tests of this folder: everything real, under /tmp, gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from greenroom.core.paths import StatePaths
from tests.chaos import events as ev
from tests.chaos.recorder import Recorder
from tests.e2e.rough import RoughStack, Shaken
from tests.e2e.stack import POOL, Stack, Watched, docker, remove_images

HERE = Path(__file__).parent
S = TypeVar("S", bound=Stack)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.docker)
            item.add_marker(pytest.mark.slow)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="up needs root"))


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """A stack that is up, with a pool of two."""
    with running(Stack) as stack:
        yield stack


@pytest.fixture(scope="session")
def rough() -> Iterator[RoughStack]:
    """A stack whose parts the tests break, with a pool of two."""
    with running(RoughStack) as stack:
        yield stack


@contextmanager
def running(kind: type[S]) -> Iterator[S]:
    """A stack that is up while the block runs; nothing is left of it."""
    folder = Path(tempfile.mkdtemp(prefix="greenroom-e2e-", dir="/tmp"))
    folder.chmod(0o755)  # the gate's own user must reach the state folder
    stack = kind(folder, StatePaths(folder / "state"))
    stack.make_repo()
    try:
        up = stack.cli("up", "--pool", str(stack.pool_file), "--json")
        assert up.code == 0, up.err
        yield stack
        down = stack.cli("down", "--force", "--json")
        assert down.code == 0, down.err
        assert stack.containers() == []
        assert stack.processes() == []
    finally:
        _remove(stack)


def _remove(stack: Stack) -> None:
    stack.cli("down", "--force")
    if stack.paths.install_id.exists():
        left = stack.containers()
        if left:
            docker("rm", "-f", *left)
        remove_images(
            docker("images", "-q", "--filter", f"reference=greenroom/{stack.install[:8]}/*")
        )
    shutil.rmtree(stack.folder)


def _hear_of_removals(recorder: Recorder, status: dict[str, Any]) -> None:
    """Wait until the engine's events are here; what they never tell is the checker's business."""
    live = {slot["container"] for slot in status["containers"]}
    for _ in range(100):
        events = recorder.events
        started = {e.container for e in events if isinstance(e, ev.ContainerStarted)}
        removed = {e.container for e in events if isinstance(e, ev.ContainerRemoved)}
        if started - removed <= live:
            return
        time.sleep(0.1)


@pytest.fixture
def watched(stack: Stack, checked: Recorder) -> Iterator[Watched]:
    """The stack under the invariant checker; the pool is full before and after each test."""
    with watching(stack, checked) as seen:
        yield seen


@pytest.fixture
def shaken(rough: RoughStack, checked: Recorder) -> Iterator[Shaken]:
    """As ``watched``, for the stack whose parts the tests break."""
    with watching(rough, checked):
        seen = Shaken(rough, checked)
        yield seen
        seen.nothing_is_left_over()


@contextmanager
def watching(stack: Stack, checked: Recorder) -> Iterator[Watched]:
    """Record what happens to a stack while the block runs, and that it is whole after it."""
    stack.full()
    with checked.engine(stack.install):
        yield Watched(stack, checked)
        for claim in stack.ok("claims", "--json").json:
            stack.cli("release", claim["claim_id"], "--discard")
        _hear_of_removals(checked, stack.full())
        checked.record(ev.PoolAtTarget(time.time(), POOL))
        checked.slot_files(stack.paths.slots)
        checked.record(*stack.workflow_events())
    checked.record(ev.Finished(time.time()))
