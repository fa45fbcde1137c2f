"""``greenroom doctor``: is the machine fit, and is this install well? Each problem with its fix."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from greenroom.cli.http_client import Api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, size
from greenroom.core.errors import GreenroomError
from greenroom.core.names import LABEL_CONTAINER, LABEL_INSTALL
from greenroom.gate.control import GateClient
from greenroom.services import supervisor_client
from greenroom.services.docker_http import DockerHttp
from greenroom.services.listen import tls_context
from greenroom.services.settings import Settings, load_settings

_LOW_DISK = 5 << 30
_OLDEST_ENGINE = (20, 10)


@dataclass(frozen=True)
class Finding:
    """One check. ``fix`` says what to do about a problem."""

    check: str
    ok: bool
    detail: str
    fix: str = ""


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:  # noqa: FBT001
    """Check the machine and this install; exits 1 when there is a problem."""
    findings = list(examine())
    if as_json:
        emit([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            print(f"{'ok     ' if finding.ok else 'PROBLEM'}  {finding.check:<{width}}  ", end="")
            print(finding.detail)
            if finding.fix:
                print(f"{'':<{width + 11}}→ {finding.fix}")
    return 0 if all(finding.ok for finding in findings) else 1


def examine() -> Iterator[Finding]:
    """All findings; a check that cannot be made is a problem too."""
    yield _kernel()
    yield _permissions()
    try:
        settings = load_settings(os.environ)
    except GreenroomError as error:
        yield Finding("install", False, error.message, "greenroom up")
        return
    api = Api(settings.paths)
    yield Finding("install", True, f"{settings.install_id} in {settings.paths.root}")
    checks: list[tuple[str, Callable[[], str], str]] = [
        ("engine", lambda: _engine(settings), "greenroom up installs or starts Docker"),
        ("disk", lambda: _disk(settings), "free disk space, or delete pools that are not needed"),
        ("services", lambda: _services(settings), "greenroom up; then the service's log"),
        ("temporal", lambda: _temporal(settings), "greenroom services --restart temporal"),
        ("opener", lambda: _opener(settings), "greenroom services --restart opener"),
        ("gate", lambda: _gate(settings), "greenroom services --restart gate"),
        ("api", lambda: _api(api), "greenroom services --restart api"),
        ("listen", lambda: _listen(settings), "greenroom services --restart api; then its log"),
        ("pools", lambda: _pools(api), "greenroom status POOL; greenroom refresh POOL"),
        (
            "orphans",
            lambda: _orphans(settings, api),
            "they are swept within a minute; if not, the worker's log says why",
        ),
    ]
    for name, check, fix in checks:
        yield _run(name, check, fix)


class _ProblemError(Exception):
    """A check found something wrong; its text is the detail."""


def _run(name: str, check: Callable[[], str], fix: str) -> Finding:
    try:
        return Finding(name, True, check())
    except (_ProblemError, GreenroomError, OSError) as error:
        return Finding(name, False, str(error), fix)


def _kernel() -> Finding:
    if sys.platform != "linux":
        return Finding("kernel", False, sys.platform, "Greenroom needs Linux")
    missing = [name for name in ("net", "mnt", "pid") if not Path(f"/proc/self/ns/{name}").exists()]
    seccomp = "Seccomp:" in Path("/proc/self/status").read_text()
    if missing or not seccomp:
        lacks = ", ".join([*missing, *([] if seccomp else ["seccomp"])])
        return Finding("kernel", False, f"lacks {lacks}", "boot a kernel that has them")
    groups = "v2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "v1"
    return Finding("kernel", True, f"Linux {os.uname().release}, cgroup {groups}")


def _permissions() -> Finding:
    if os.geteuid() == 0:
        return Finding("permissions", True, "root")
    return Finding(
        "permissions", False, f"user {os.geteuid()}", "run as root: namespaces and mounts need it"
    )


def _engine(settings: Settings) -> str:
    docker = DockerHttp(settings.docker_host)
    info = docker.get("/info")
    version = str(info["ServerVersion"])
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < _OLDEST_ENGINE:
        raise _ProblemError(f"Docker {version} is older than 20.10")
    if any("rootless" in option for option in info.get("SecurityOptions") or []):
        raise _ProblemError("a rootless engine: its containers' namespaces cannot be entered")
    if "Docker Desktop" in str(info.get("OperatingSystem", "")):
        raise _ProblemError("Docker Desktop runs containers on another kernel")
    return f"Docker {version}, {info['Driver']}, {info['ContainersRunning']} containers running"


def _disk(settings: Settings) -> str:
    info = DockerHttp(settings.docker_host).get("/info")
    seen = []
    for where in (Path(str(info["DockerRootDir"])), settings.paths.root):
        free = shutil.disk_usage(where).free
        seen.append(f"{size(free)} free in {where}")
        if free < _LOW_DISK:
            raise _ProblemError(seen[-1])
    return ", ".join(seen)


def _services(settings: Settings) -> str:
    states = supervisor_client.status(settings.paths)
    if states is None:
        raise _ProblemError("none run")
    late = [f"{name} (log: {state['log']})" for name, state in states.items() if not state["ready"]]
    if late:
        raise _ProblemError(f"not ready: {', '.join(late)}")
    restarts = sum(state["restarts"] for state in states.values())
    return f"{', '.join(states)} ready, {restarts} restarts"


def _temporal(settings: Settings) -> str:
    host, _, port = settings.temporal_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5):
        return f"{settings.temporal_address}, namespace {settings.temporal_namespace}"


def _opener(settings: Settings) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        probe.connect(str(settings.paths.opener_socket))
    return "answers"


def _gate(settings: Settings) -> str:
    containers = GateClient(settings.paths).list()
    broken = [name for name, state in containers.items() if state.get("error")]
    if broken:
        raise _ProblemError(f"not attached: {', '.join(broken)}")
    return f"{len(containers)} containers attached"


def _api(api: Api) -> str:
    return f"answers, {len(api.get('pools'))} pools"


def _listen(settings: Settings) -> str:
    """Whether the API is where it was told to listen."""
    listen = settings.listen
    if listen is None:
        return "the Unix socket only"
    if listen.cert:
        tls_context(listen)
    any_address = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked for, not bound
    host = any_address.get(listen.host, listen.host)
    with socket.create_connection((host, listen.port), timeout=5):
        return listen.url


def _pools(api: Api) -> str:
    pools = api.get("pools")
    failing = [pool["pool"] for pool in pools if pool["failure"] or pool["refresh"]["error"]]
    if failing:
        raise _ProblemError(f"failing: {', '.join(failing)}")
    return ", ".join(f"{p['pool']} {p['counts']['ready']}/{p['target']}" for p in pools) or "none"


def _orphans(settings: Settings, api: Api) -> str:
    """Running slots of this install that no pool knows.

    Stopped ones may be kept for their unsaved work; builders and savers are their steps' business.
    """
    wanted = f'{{"label":["{LABEL_INSTALL}={settings.install_id}","greenroom.kind=slot"]}}'
    docker = DockerHttp(settings.docker_host)
    there: list[dict[str, Any]] = docker.get("/containers/json", filters=wanted)
    known = {slot["container"] for pool in api.get("pools") for slot in pool["containers"]}
    lost = [
        found["Names"][0].lstrip("/")
        for found in there
        if found["Labels"].get(LABEL_CONTAINER) not in known
    ]
    if lost:
        raise _ProblemError(f"{len(lost)} containers of no pool: {', '.join(lost[:5])}")
    return f"none among {len(there)} containers"
