"""Services are started in order, kept up, and ended; nothing is left and nobody else is hit."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths
from greenroom.services import processes, supervisor_client
from greenroom.services.child import Backoff
from greenroom.services.process_record import end_leftovers, services_file
from greenroom.services.processes import ProcessId
from greenroom.services.service_list import Service, said_ready
from greenroom.services.supervisor import Supervisor, supervise

QUICK = Backoff(first_s=0.01, most_s=0.05)
STEADY = "import time; print('ready', flush=True); time.sleep(600)"
PARENT = (
    "import subprocess, time; "
    "child = subprocess.Popen(['sleep', '600']); "
    "print('child', child.pid, flush=True); print('ready', flush=True); time.sleep(600)"
)
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('ready', flush=True); time.sleep(600)"
)


def service(name: str, code: str, grace_s: float = 5.0) -> Service:
    return Service(name, (sys.executable, "-c", code), said_ready, grace_s)


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    paths = StatePaths(tmp_path)
    paths.run.mkdir()
    paths.logs.mkdir()
    return paths


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - other processes set no Event
            await asyncio.sleep(0.01)


class Running:
    """A supervisor in this process."""

    def __init__(self, paths: StatePaths, *services: Service) -> None:
        self.paths = paths
        self.supervisor = Supervisor(paths, services, QUICK)
        self.task = asyncio.create_task(self.supervisor.run())

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.supervisor.status()[name]
        return found

    async def ready(self) -> None:
        await until(lambda: all(each["ready"] for each in self.supervisor.status().values()))

    async def ask(self, **request: str) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(str(self.paths.supervisor_socket))
        writer.write(json.dumps(request).encode() + b"\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def stop(self) -> None:
        if not self.task.done():
            assert await self.ask(op="stop") == {"ok": True}
        await self.task


@pytest.fixture
async def start(paths: StatePaths) -> AsyncIterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(*services: Service) -> Running:
        started.append(Running(paths, *services))
        return started[-1]

    yield begin
    for running in started:
        await running.stop()


async def test_services_start_in_order_each_when_the_one_before_is_ready(
    start: Callable[..., Running], tmp_path: Path
) -> None:
    marker = tmp_path / "first-is-ready"
    first = f"import pathlib, time; pathlib.Path({str(marker)!r}).touch(); {STEADY}"
    second = f"import pathlib; assert pathlib.Path({str(marker)!r}).exists(); {STEADY}"
    running = start(service("first", first), service("second", second))
    await running.ready()
    assert running.state("second")["restarts"] == 0


async def test_a_killed_process_is_started_again_and_its_group_is_ended(
    start: Callable[..., Running], paths: StatePaths
) -> None:
    running = start(service("parent", PARENT))
    await running.ready()
    before = running.state("parent")
    words = (paths.logs / "parent.log").read_text().split()
    grandchild = processes.identify(int(words[words.index("child") + 1]))
    assert grandchild is not None
    os.kill(before["pid"], signal.SIGKILL)
    await until(lambda: running.state("parent")["restarts"] == 1)
    await running.ready()
    assert running.state("parent")["pid"] != before["pid"]
    assert running.state("parent")["last_exit"] == -signal.SIGKILL
    await until(lambda: not processes.is_alive(grandchild))


async def test_the_file_names_every_process_by_pid_and_start_time(
    start: Callable[..., Running], paths: StatePaths
) -> None:
    running = start(service("one", STEADY))
    await running.ready()
    state = json.loads(services_file(paths).read_text())
    one = state["services"]["one"]
    assert processes.is_alive(ProcessId(one["pid"], one["started"]))
    assert processes.is_alive(ProcessId(**state["supervisor"]))
    await running.stop()
    assert json.loads(services_file(paths).read_text())["services"]["one"]["pid"] == 0
    assert not paths.supervisor_socket.exists()


async def test_stopping_goes_in_reverse_order_and_is_by_force_for_the_deaf(
    start: Callable[..., Running], paths: StatePaths, tmp_path: Path
) -> None:
    order = tmp_path / "order"
    polite = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        f"    open({str(order)!r}, 'a').write(sys.argv[1]); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True); time.sleep(600)"
    )
    named = [
        Service(name, (sys.executable, "-c", polite, name), said_ready, 5.0) for name in ("a", "b")
    ]
    running = start(named[0], service("deaf", DEAF, grace_s=0.1), named[1])
    await running.ready()
    deaf = running.state("deaf")
    await running.stop()
    assert order.read_text() == "ba"
    assert not processes.is_alive(ProcessId(deaf["pid"], deaf["started"]))


async def test_restart_replaces_one_process_even_a_deaf_one(start: Callable[..., Running]) -> None:
    running = start(service("deaf", DEAF, grace_s=0.1), service("other", STEADY))
    await running.ready()
    before = {name: running.state(name)["pid"] for name in ("deaf", "other")}
    assert await running.ask(op="restart", service="deaf") == {"ok": True}
    await until(lambda: running.state("deaf")["restarts"] == 1)
    assert running.state("deaf")["pid"] != before["deaf"]
    assert running.state("other")["pid"] == before["other"]
    assert (await running.ask(op="restart", service="none"))["error"] == "not_found"
    assert (await running.ask(op="what"))["error"] == "bad_request"


async def test_a_program_that_is_missing_does_not_stop_the_others(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenroom.services.supervisor._START_PATIENCE_S", 0.1)
    running = start(Service("gone", ("/nonexistent/program",), said_ready), service("one", STEADY))
    await until(lambda: bool(running.state("one")["ready"]))
    assert running.state("gone")["pid"] == 0


async def test_a_large_log_is_moved_aside_at_the_start(
    start: Callable[..., Running], paths: StatePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenroom.services.child._LOG_LIMIT_BYTES", 10)
    (paths.logs / "one.log").write_text("ready, but that was another life\n")
    running = start(service("one", STEADY))
    await running.ready()
    assert (paths.logs / "one.log.1").read_text().startswith("ready, but")
    assert (paths.logs / "one.log").read_text() == "ready\n"


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def record(paths: StatePaths, **pids: tuple[int, int]) -> None:
    services = {name: {"pid": pid, "started": at} for name, (pid, at) in pids.items()}
    services_file(paths).write_text(json.dumps({"supervisor": {}, "services": services}))


def test_what_a_killed_supervisor_left_is_ended_and_nothing_else(
    paths: StatePaths, bystander: subprocess.Popen[bytes]
) -> None:
    left = subprocess.Popen(["sleep", "600"], start_new_session=True)
    identity = processes.identify(left.pid)
    other = processes.identify(bystander.pid)
    assert identity is not None
    assert other is not None
    # The bystander has a number that once was a service's.
    record(paths, left=(left.pid, identity.started), reused=(bystander.pid, other.started - 1))
    assert end_leftovers(paths) == ["left"]
    assert left.wait(10) == -signal.SIGTERM
    assert processes.is_alive(other)


def test_there_is_one_supervisor_at_a_time(paths: StatePaths) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from greenroom.core.paths import StatePaths\n"
        "from greenroom.services.supervisor import supervise\n"
        "supervise(StatePaths(Path(sys.argv[1])), [])"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(paths.root)])
    try:
        deadline = time.monotonic() + 20
        while supervisor_client.status(paths) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert supervisor_client.status(paths) == {}
        with pytest.raises(UsageError, match="already supervised"):
            supervise(paths, [])
    finally:
        supervisor_client.stop(paths, lambda step, detail: None)
    assert first.wait(10) == 0
    assert supervisor_client.status(paths) is None


def test_stopping_what_does_not_run_is_success(paths: StatePaths, tmp_path: Path) -> None:
    supervisor_client.stop(paths, lambda step, detail: None)
    supervisor_client.stop(StatePaths(tmp_path / "never"), lambda step, detail: None)


def test_pauses_double_to_a_limit_and_start_over_after_a_settled_life() -> None:
    backoff = Backoff()
    pauses = [backoff.after(0.0, 0.0)]
    for _ in range(7):
        pauses.append(backoff.after(pauses[-1], 1.0))
    assert pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert backoff.after(10.0, 30.0) == 0.2
