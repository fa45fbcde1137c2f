"""Up and down of all services, twice, with a killed supervisor between; worker and API stand in.

Temporal, opener, gate and supervisor are the real ones, on state folders of the test's own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from greenroom.core.errors import BackendError, UsageError
from greenroom.core.paths import StatePaths
from greenroom.gate.control import GateClient
from greenroom.services import processes, supervisor_client, temporal_server
from greenroom.services.down import bring_down
from greenroom.services.folders import ensure_gate_user
from greenroom.services.process_record import services_file
from greenroom.services.processes import ProcessId
from greenroom.services.progress import silent
from greenroom.services.settings import Settings, load_settings
from greenroom.services.up import bring_up

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="up needs root"),
]

STAND_IN = """#!{python}
import os, sys, time
sys.executable = {wrapper!r}
name = sys.argv[1]
if name == "supervise":
    from greenroom.services.supervisor import main
    main()
elif name == "opener":
    from greenroom.gate.opener import main
    main()
elif name in os.environ.get("GREENROOM_TEST_BROKEN", "").split():
    sys.exit(f"{{name}} is broken on purpose")
else:
    print("ready", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bin folder whose ``greenroom`` has a stand-in for the worker and the API."""
    real = Path(sys.executable)
    folder = tmp_path / "bin"
    folder.mkdir()
    wrapper = folder / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    program = folder / "greenroom"
    program.write_text(STAND_IN.format(python=real, wrapper=str(wrapper)))
    for path in (wrapper, program):
        path.chmod(0o755)
    (folder / "temporal").symlink_to(real.parent / "temporal")
    monkeypatch.setattr(sys, "executable", str(wrapper))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the gate's user can get to (those of tmp_path are closed to others)."""
    with tempfile.TemporaryDirectory(prefix="greenroom-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def install(open_folder: Path, programs: None) -> Iterator[Callable[..., dict[str, str]]]:
    """The environment of a new install; all of them are brought down at the end."""
    made: list[StatePaths] = []

    def new(name: str = "state", **environ: str) -> dict[str, str]:
        root = open_folder / name
        made.append(StatePaths(root))
        return {
            **{key: value for key, value in os.environ.items() if not key.startswith("TEMPORAL")},
            "TEMPORAL_CONFIG_FILE": os.devnull,
            "GREENROOM_STATE": str(root),
            **environ,
        }

    yield new
    for paths in made:
        supervisor_client.stop(paths, silent)


def running(settings: Settings) -> dict[str, ProcessId]:
    states = supervisor_client.status(settings.paths)
    assert states is not None
    assert all(state["ready"] for state in states.values())
    return {name: ProcessId(each["pid"], each["started"]) for name, each in states.items()}


def supervisor_of(settings: Settings) -> ProcessId:
    state: dict[str, Any] = json.loads(services_file(settings.paths).read_text())
    return ProcessId(**state["supervisor"])


def test_up_twice_a_killed_supervisor_down_and_up(install: Callable[..., dict[str, str]]) -> None:
    environ = install()
    settings = bring_up(environ, silent)
    first = running(settings)
    assert list(first) == ["temporal", "opener", "gate", "worker", "activities", "api"]
    assert GateClient(settings.paths).list() == {}
    namespace = temporal_server.wait_ready(settings, environ, 5.0)
    gate_uid = Path(f"/proc/{first['gate'].pid}").stat().st_uid
    assert gate_uid == ensure_gate_user().pw_uid != 0
    assert "CapEff:\t0000000000000000" in Path(f"/proc/{first['gate'].pid}/status").read_text()

    assert bring_up(environ, silent) == settings
    assert running(settings) == first, "what runs is left alone"

    os.kill(supervisor_of(settings).pid, signal.SIGKILL)
    again = bring_up(environ, silent)
    second = running(again)
    assert not any(processes.is_alive(process) for process in first.values())
    assert again.temporal_address == settings.temporal_address
    assert temporal_server.wait_ready(again, environ, 5.0) == namespace

    supervisor = supervisor_of(again)
    bring_down(again, silent)
    assert not any(processes.is_alive(each) for each in (*second.values(), supervisor))
    assert [path.name for path in again.paths.run.glob("*.sock")] == []
    assert supervisor_client.status(again.paths) is None
    bring_down(again, silent)

    third = bring_up(environ, silent)
    assert (third.install_id, third.decided) == (settings.install_id, settings.decided)
    assert load_settings({"GREENROOM_STATE": str(third.paths.root)}) == replace(
        third, host=load_settings(environ).host
    )


def test_a_supervisor_killed_before_down_leaves_nothing(
    install: Callable[..., dict[str, str]],
) -> None:
    settings = bring_up(install(), silent)
    services = running(settings)
    os.kill(supervisor_of(settings).pid, signal.SIGKILL)
    bring_down(settings, silent)
    assert not any(processes.is_alive(process) for process in services.values())


def test_two_installs_at_once_do_not_meet(install: Callable[..., dict[str, str]]) -> None:
    environs = [install("one"), install("two")]
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda environ: bring_up(environ, silent), environs)
    assert one.install_id != two.install_id
    assert one.temporal_address != two.temporal_address
    assert one.ui_url != two.ui_url
    kept = running(two)
    bring_down(one, silent)
    assert running(two) == kept


def test_a_service_that_does_not_stay_up_is_named_with_its_last_words(
    install: Callable[..., dict[str, str]],
) -> None:
    environ = install(GREENROOM_TEST_BROKEN="worker")
    with pytest.raises(BackendError, match=r"worker does not stay up: worker is broken on purpose"):
        bring_up(environ, silent)


def test_a_state_folder_out_of_the_gates_reach_is_refused(
    install: Callable[..., dict[str, str]], open_folder: Path
) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(UsageError, match=f"{closed} is closed to others"):
        bring_up({**install(), "GREENROOM_STATE": str(closed / "state")}, silent)


def test_another_temporal_server_is_refused_while_services_run(
    install: Callable[..., dict[str, str]],
) -> None:
    environ = install()
    bring_up(environ, silent)
    with pytest.raises(UsageError, match="run down first"):
        bring_up({**environ, "TEMPORAL_ADDRESS": "198.51.100.9:7233"}, silent)
