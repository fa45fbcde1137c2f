"""A host of its own for tests: state folder, install id, opener and gate as real processes.

Every object made under the install id is removed at the end, whatever the tests left.
"""

import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hosts import Host, Repo, Service, _hear_of_removals, clean, new_settings

from activities.context import open_context
from activities.registries import Registries
from activities.seccomp import ensure_seccomp
from tests.chaos import events as ev
from tests.chaos.checker import SWEPT_WITHIN_S
from tests.chaos.recorder import Recorder


@pytest.fixture(scope="session")
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="greenroom-test-", dir="/tmp") as folder:
        settings = new_settings(Path(folder))
        ctx = open_context(settings, namespace_id="the-namespace")
        opener, gate = Service("opener", Path(folder)), Service("gate", Path(folder))
        try:
            ensure_seccomp(ctx)
            yield Host(ctx, gate, opener, Registries(settings, ctx.engine))
        finally:
            clean(ctx)
            gate.kill()
            opener.kill()
            ctx.engine.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Record the lease files as a test leaves them, before its fixtures take them away."""
    try:
        return (yield)
    finally:
        if isinstance(item, pytest.Function) and "host" in item.fixturenames:
            item.funcargs["checked"].slot_files(item.funcargs["host"].paths.slots)


@pytest.fixture(autouse=True)
def under_the_checker(request: pytest.FixtureRequest, checked: Recorder) -> Iterator[None]:
    """Every test on ``host`` runs under the invariant checker.

    There is no Temporal here: a test with its fixtures stands for the workflows of what it makes,
    which end with it. So property 3 means: what a slot has is gone when its test is. Nobody
    sweeps afterwards, hence the recording's end is set past the minute that a sweep has.
    No pool runs either, so property 5 has no events; 1, 2, 4 and 6 are judged by what stands in
    the lease files and by what the engine says. Tests without ``host`` have no slots.
    """
    if "host" not in request.fixturenames:
        yield
        return
    host: Host = request.getfixturevalue("host")
    began = time.time()
    with checked.engine(host.ctx.settings.install_id):
        yield
        _hear_of_removals(checked)
        checked.slot_files(host.paths.slots)
    ended = time.time()
    started = {e.container for e in checked.events if isinstance(e, ev.ContainerStarted)}
    kept = {e.owner for e in checked.events if isinstance(e, ev.Kept)}
    for owner in started | kept:
        checked.record(ev.WorkflowOpen(began, owner), ev.WorkflowClosed(ended, owner))
    checked.record(ev.Finished(ended + SWEPT_WITHIN_S + 1))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "source")
    made.commit({"hello.txt": "hello\n", ".gitignore": "built/\n*.log\n", "src/a.py": "A = 1\n"})
    return made
