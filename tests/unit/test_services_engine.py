"""What an earlier life of the engine leaves, and which engines are refused."""

from __future__ import annotations

import http.server
import json
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greenroom.core.errors import EngineError
from greenroom.core.paths import StatePaths
from greenroom.services import base_image, engine_setup, up
from greenroom.services.docker_http import DockerHttp
from greenroom.services.progress import silent


def fake_process(proc: Path, pid: int, name: str, state: str = "S") -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    fields = " ".join(["1"] * 18)
    (folder / "stat").write_text(f"{pid} ({name}) {state} {fields} 4711 0\n")
    (folder / "comm").write_text(name + "\n")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        folder = os.open(path.parent, os.O_PATH)
        server.bind(f"/proc/self/fd/{folder}/{path.name}")  # a socket's path must be short
        os.close(folder)


@pytest.fixture
def earlier_life(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "docker" / "containerd").mkdir(parents=True)
    (run / "docker.pid").write_text("4242")
    (run / "docker" / "containerd" / "containerd.pid").write_text("4243\n")
    make_socket(run / "docker.sock")
    make_socket(run / "docker" / "containerd" / "containerd.sock")
    return run


def names(paths: list[Path]) -> set[str]:
    return {path.name for path in paths}


@pytest.mark.parametrize("taken_by", [None, "bash", "zombie"])
def test_files_of_processes_that_are_gone_are_removed(
    earlier_life: Path, tmp_path: Path, taken_by: str | None
) -> None:
    proc = tmp_path / "proc"
    if taken_by == "bash":  # the number has passed to another program
        fake_process(proc, 4242, "bash")
        fake_process(proc, 4243, "a) R 1 (b")
    elif taken_by == "zombie":
        fake_process(proc, 4242, "dockerd", state="Z")
    removed = engine_setup.remove_stale(earlier_life, proc)
    assert names(removed) == {"docker.pid", "docker.sock", "containerd.pid", "containerd.sock"}
    assert not any(path.exists() for path in removed)


def test_files_of_living_processes_stay(earlier_life: Path, tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    fake_process(proc, 4243, "containerd")
    assert names(engine_setup.remove_stale(earlier_life, proc)) == {"docker.pid", "docker.sock"}
    fake_process(proc, 4242, "dockerd")
    (earlier_life / "docker.pid").write_text("4242")
    assert engine_setup.remove_stale(earlier_life, proc) == []


def test_a_clean_machine_has_nothing_to_remove(tmp_path: Path) -> None:
    assert engine_setup.remove_stale(tmp_path) == []


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """Answers ``/_ping`` and ``/info`` as an engine with the given properties."""

    daemon_threads = True

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = b"OK" if self.path == "/_ping" else json.dumps(info).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *args: object) -> None:
                pass

        super().__init__(str(path), Handler)


@pytest.fixture
def engine_with(tmp_path: Path) -> Iterator[Any]:
    servers: list[FakeEngine] = []

    def start(**info: object) -> dict[str, str]:
        path = tmp_path / f"{len(servers)}.sock"
        server = FakeEngine(path, {"KernelVersion": os.uname().release, **info})
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return {"DOCKER_HOST": f"unix://{path}"}

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_engine_that_answers_is_used(engine_with: Any, tmp_path: Path) -> None:
    environ = engine_with(ServerVersion="20.10.24", OperatingSystem="Debian", SecurityOptions=None)
    found = engine_setup.ensure_docker(StatePaths(tmp_path), environ, silent)
    assert found == engine_setup.Engine(environ["DOCKER_HOST"], "20.10.24")


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"OperatingSystem": "Docker Desktop"}, "Docker Desktop"),
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, "rootless"),
        ({"KernelVersion": "6.0.0-of-another-machine"}, "another kernel"),
    ],
)
def test_engines_whose_namespaces_are_out_of_reach_are_refused_with_the_reason(
    engine_with: Any, tmp_path: Path, info: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EngineError, match=reason):
        engine_setup.ensure_docker(StatePaths(tmp_path), engine_with(**info), silent)


def test_a_remote_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="remote"):
        engine_setup.ensure_docker(
            StatePaths(tmp_path), {"DOCKER_HOST": "tcp://198.51.100.7:2376"}, silent
        )


def test_a_named_engine_that_is_silent_is_not_replaced_by_another(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="DOCKER_HOST"):
        engine_setup.ensure_docker(
            StatePaths(tmp_path), {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}, silent
        )


def test_without_root_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_setup, "DEFAULT_DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EngineError, match=r"apt-get install docker\.io") as caught:
        engine_setup.ensure_docker(StatePaths(tmp_path), {}, silent)
    assert "\n" not in str(caught.value)


def test_an_engine_error_carries_the_engines_own_words(engine_with: Any) -> None:
    docker = DockerHttp(engine_with()["DOCKER_HOST"])
    with pytest.raises(EngineError, match="Unsupported method"):
        docker.tag("a", "b", "c")


def test_an_engine_of_ours_that_has_ended_counts_as_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = tmp_path / "engine.json"
    monkeypatch.setattr(engine_setup, "_STARTED", record)
    assert engine_setup.started_engine() is None
    record.write_text(json.dumps({"pid": os.getpid(), "started": 1}))  # the number was reused
    assert engine_setup.started_engine() is None
    engine_setup.stop_engine(silent)  # and so nothing is stopped


def test_locks_of_root_stand_where_nobody_else_writes() -> None:
    for lock in (engine_setup._IN_USE, base_image._LOCK, up._PORTS_LOCK):
        if os.geteuid() == 0:
            assert not lock.parent.stat().st_mode & 0o022
