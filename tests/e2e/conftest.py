"""One private stack for all tests of this folder: everything real, under /tmp, gone afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greenroom.core.paths import StatePaths
from tests.chaos import events as ev
from tests.chaos.recorder import Recorder
from tests.e2e.stack import POOL, Stack, Watched, docker, remove_images

HERE = Path(__file__).parent


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
    folder = Path(tempfile.mkdtemp(prefix="greenroom-e2e-", dir="/tmp"))
    folder.chmod(0o755)  # the gate's own user must reach the state folder
    stack = Stack(folder, StatePaths(folder / "state"))
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
    stack.full()
    with checked.engine(stack.install):
        yield Watched(stack, checked)
        for claim in stack.ok("claims", "--json").json:
            stack.cli("release", claim["claim_id"], "--discard")
        _hear_of_removals(checked, stack.full())
        checked.record(ev.PoolAtTarget(time.time(), POOL))
        checked.slot_files(stack.paths.slots)
    checked.record(ev.Finished(time.time()))
