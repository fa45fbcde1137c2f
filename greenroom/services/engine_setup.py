"""Getting a Docker Engine to answer: the one that does, else one that is installed and started."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from greenroom.core.errors import EngineError
from greenroom.core.paths import StatePaths
from greenroom.services import detached, host_packages, processes
from greenroom.services.docker_http import DockerHttp
from greenroom.services.folders import LOCKS
from greenroom.services.processes import ProcessId
from greenroom.services.progress import Report
from greenroom.services.settings import DEFAULT_DOCKER_HOST

_START_DEADLINE_S = 60.0
_IN_USE = LOCKS / "greenroom-engine.lock"
# The dockerd that some install of this machine started. Not in a state folder: whichever install
# goes down last stops it.
_STARTED = Path("/run/greenroom-engine.json")
INSTALL_HINT = (
    "install Docker Engine (`apt-get install docker.io` on Debian and Ubuntu) and start it"
)


@dataclass(frozen=True)
class Engine:
    """An engine that answers."""

    docker_host: str
    version: str


def ensure_docker(paths: StatePaths, environ: Mapping[str, str], report: Report) -> Engine:
    """An engine that Greenroom can use, installed and started where that is possible.

    Raises EngineError with one line that says what to do.
    """
    host = environ.get("DOCKER_HOST") or DEFAULT_DOCKER_HOST
    docker = DockerHttp(host)
    report("docker", f"looking for an engine at {host}")
    if docker.answers():
        return _accept(docker, host)
    if "DOCKER_HOST" in environ:
        raise EngineError(f"no Docker Engine answers at DOCKER_HOST={host}: start it, or unset it")
    if os.geteuid() != 0:
        raise EngineError(
            f"no Docker Engine answers at {host} for this user: {INSTALL_HINT}, or run as root"
        )
    if shutil.which("dockerd") is None:
        if not host_packages.can_install():
            raise EngineError(f"there is no Docker Engine here: {INSTALL_HINT}")
        host_packages.install("docker.io", report)
        if docker.answers():  # the package's own service has started it
            return _accept(docker, host)
    return _start(docker, host, paths, report)


def _accept(docker: DockerHttp, host: str) -> Engine:
    info = docker.get("/info")
    system = str(info.get("OperatingSystem", ""))
    if "Docker Desktop" in system:
        raise EngineError(
            "this is Docker Desktop, whose engine runs in a machine of its own; Greenroom needs "
            "one on the same kernel: install Docker Engine, or use the API of such a host"
        )
    if any("rootless" in str(option) for option in info.get("SecurityOptions") or []):
        raise EngineError(
            "this Docker Engine is rootless; Greenroom enters its containers' network namespaces "
            "and needs a rootful one: set DOCKER_HOST to it, or unset it"
        )
    kernel = os.uname().release
    if str(info.get("KernelVersion", kernel)) != kernel:
        raise EngineError(
            f"the Docker Engine at {host} runs on another kernel than this machine; Greenroom "
            "needs the engine of its own machine, or use the API of that host"
        )
    return Engine(host, str(info.get("ServerVersion", "?")))


def _start(docker: DockerHttp, host: str, paths: StatePaths, report: Report) -> Engine:
    if Path("/run/systemd/system").exists():
        report("docker", "starting docker.service")
        subprocess.run(["systemctl", "start", "docker.service"], check=False, capture_output=True)
        if _wait(docker, None, 20.0):
            return _accept(docker, host)
        raise EngineError("docker.service does not start: see `journalctl -u docker.service`")
    with _lock(LOCKS / "greenroom-dockerd.lock", fcntl.LOCK_EX):
        if not _starting(docker) and not docker.answers():
            _start_dockerd(docker, paths, report)
    return _accept(docker, host)


def _starting(docker: DockerHttp) -> bool:
    """Whether a dockerd that somebody else started comes up (a package's init script, say)."""
    try:
        text = Path("/var/run/docker.pid").read_text().strip()
    except FileNotFoundError:
        return False
    alive = text.isdigit() and processes.program(int(text)) == "dockerd"
    return alive and _wait(docker, None, _START_DEADLINE_S)


def _start_dockerd(docker: DockerHttp, paths: StatePaths, report: Report) -> None:
    for leftover in remove_stale(Path("/var/run")):
        report("docker", f"removed {leftover}, left by a process that is gone")
    log = paths.logs / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    # Greenroom's containers use no bridge, so an engine without iptables will do.
    for options in ([], ["--iptables=false", "--ip6tables=false", "--bridge=none"]):
        report("docker", " ".join(["starting dockerd", *options]))
        child = detached.start(["dockerd", *options], log)
        process = processes.identify(child.pid)
        if process is not None and _wait(docker, child, _START_DEADLINE_S):
            _STARTED.write_text(json.dumps({"pid": process.pid, "started": process.started}))
            return
        if child.poll() is None:
            processes.signal_group(child.pid, 15)
            child.wait(timeout=30)
    lines = log.read_text(errors="replace").splitlines()
    raise EngineError(f"dockerd does not start: {(lines or ['no output'])[-1]} (whole log: {log})")


def _wait(docker: DockerHttp, child: subprocess.Popen[bytes] | None, patience_s: float) -> bool:
    """Whether the engine answers before the deadline and before ``child`` ends."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if docker.answers():
            return True
        if child is not None and child.poll() is not None:
            return False
        time.sleep(0.1)  # dockerd tells nobody that it is ready
    return False


def remove_stale(run: Path, proc: Path = processes.PROC) -> list[Path]:
    """Remove the pid files and sockets of a dockerd and its containerd that are gone.

    dockerd refuses to start beside a pid file whose number is in use by any program, and waits
    in vain for a containerd whose number has passed to another one.
    """
    removed: list[Path] = []
    containerd = run / "docker" / "containerd"
    for name, pid_file, others in (
        ("dockerd", run / "docker.pid", [run / "docker.sock"]),
        ("containerd", containerd / "containerd.pid", [containerd / "containerd.sock"]),
    ):
        try:
            text = pid_file.read_text().strip()
        except FileNotFoundError:
            text = ""
        if text.isdigit() and processes.program(int(text), proc) == name:
            continue
        for path in (pid_file, *others):
            if path.is_socket() or path.is_file():
                path.unlink()
                removed.append(path)
    return removed


@contextmanager
def _lock(path: Path, kind: int) -> Iterator[None]:
    with path.open("a") as held:
        fcntl.flock(held, kind)
        yield


@contextmanager
def engine_in_use() -> Iterator[None]:
    """While this is held, no other install's ``down`` stops the engine."""
    with _lock(_IN_USE, fcntl.LOCK_SH):
        yield


def started_engine() -> ProcessId | None:
    """The dockerd that Greenroom started on this machine, if it still runs."""
    try:
        found = json.loads(_STARTED.read_text())
        process = ProcessId(int(found["pid"]), int(found["started"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return process if processes.is_alive(process) else None


def stop_engine(report: Report) -> None:
    """Stop the dockerd that Greenroom started, unless somebody uses it.

    Used means: a container of anybody is running, or another install holds ``engine_in_use``.
    Raises EngineError when the engine does not answer, TimeoutError when it does not end.
    """
    process = started_engine()
    if process is None:
        return
    with _IN_USE.open("a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("docker", "left running: another install uses it")
            return
        running = DockerHttp(DEFAULT_DOCKER_HOST).get("/containers/json")
        if running:
            report("docker", f"left running: it runs {len(running)} containers of others")
            return
        report("docker", "stopping dockerd")
        processes.end(process, grace_s=30.0)
        _STARTED.unlink(missing_ok=True)
