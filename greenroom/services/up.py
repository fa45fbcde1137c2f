"""Everything of ``up`` that comes before pools: engine, base image, Temporal, services."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from greenroom.core.errors import BackendError, UsageError
from greenroom.core.paths import StatePaths
from greenroom.services import supervisor_client, temporal_server
from greenroom.services.base_image import ensure_base_image
from greenroom.services.engine_setup import engine_in_use, ensure_docker
from greenroom.services.folders import LOCKS, ensure_folders, ensure_gate_user
from greenroom.services.listen import Asked, parse_listen, tls_context
from greenroom.services.listen import check as check_listen
from greenroom.services.process_record import end_leftovers
from greenroom.services.progress import Report
from greenroom.services.settings import (
    Decisions,
    Settings,
    ensure_install_id,
    host_name,
    read_decisions,
    state_paths,
    write_decisions,
)

_READY_PATIENCE_S = 90.0
_TEMPORAL_PATIENCE_S = 45.0
_GIVE_UP_RESTARTS = 5
_PORTS_LOCK = LOCKS / "greenroom-ports.lock"

Hook = Callable[[Settings, Report], None]
"""Called when the engine answers and before the services start."""


def bring_up(
    environ: Mapping[str, str], report: Report, before_start: Hook | None = None
) -> Settings:
    """Get every service of the install that ``environ`` selects running and ready.

    Does nothing that is already done, so it may be called again at any time. Raises UsageError,
    EngineError, TemporalError, or BackendError when a service does not become ready.
    """
    if os.geteuid() != 0:
        raise UsageError(
            "up needs root: it enters containers' network namespaces and mounts their personal "
            "files; run it with sudo"
        )
    paths = state_paths(environ)
    install_id = ensure_install_id(paths)
    ensure_folders(paths, ensure_gate_user().pw_gid)
    with _locked(paths.run / "up.lock"), engine_in_use():
        engine = ensure_docker(paths, environ, report)
        report("docker", f"version {engine.version} answers")
        ensure_base_image(engine.docker_host, environ, report)
        running = supervisor_client.status(paths) is not None
        before = read_decisions(paths)
        if not running:
            # A killed supervisor's Temporal would still hold the ports that we want again.
            for name in end_leftovers(paths):
                report("services", f"ended {name}, left by a killed supervisor")
        # Another install must not pick the same ports between our look and the server's start.
        with _locked(_PORTS_LOCK):
            if running and before is not None:
                decided = before
            else:
                decided = temporal_server.choose(environ, before)
            decided = replace(
                decided, docker_host=engine.docker_host, checkout=checkout(), version=version()
            )
            decided, moved = _listening(environ, decided, before if running else None)
            settings = Settings(paths, install_id, host_name(environ), decided)
            _check_unchanged(environ, settings, running=running)
            write_decisions(paths, decided)
            if before_start is not None:
                before_start(settings, report)
            supervisor_client.start_detached(paths, environ, report)
            if moved:
                _restart_api(paths, report)
            report("temporal", f"waiting for {decided.temporal_address}")
            _wait_temporal(settings, environ)
        _wait_services(paths, report)
    return settings


def _listening(
    environ: Mapping[str, str], decided: Decisions, running: Decisions | None
) -> tuple[Decisions, bool]:
    """With where the API listens, and whether a running one must move. Raises UsageError."""
    wanted = Asked.of(environ).after(Asked(decided.listen, decided.tls_cert, decided.tls_key))
    wanted = replace(
        wanted,
        cert=wanted.cert and str(Path(wanted.cert).absolute()),
        key=wanted.key and str(Path(wanted.key).absolute()),
    )
    listen = parse_listen(wanted)
    settled = replace(decided, listen=wanted.listen, tls_cert=wanted.cert, tls_key=wanted.key)
    moved = running is not None and settled != decided
    if listen is not None and (running is None or settled.listen != decided.listen):
        check_listen(listen)
    elif listen is not None and listen.cert:
        tls_context(listen)
    return settled, moved


def _restart_api(paths: StatePaths, report: Report) -> None:
    """Have the API start again with what is decided now, and wait until the old one is gone."""
    report("services", "restarting api")
    old = (supervisor_client.status(paths) or {}).get("api", {}).get("pid")
    supervisor_client.restart(paths, "api")
    deadline = time.monotonic() + _READY_PATIENCE_S
    while (supervisor_client.status(paths) or {}).get("api", {}).get("pid") == old:
        if time.monotonic() > deadline:
            raise BackendError(f"the API does not end (log: {paths.logs / 'api.log'})")
        time.sleep(0.05)


def _check_unchanged(environ: Mapping[str, str], settings: Settings, *, running: bool) -> None:
    """Refuse to ignore a Temporal server that is asked for while another is in use."""
    if not running:
        return
    asked = temporal_server.choose(environ, settings.decided)
    if asked.embedded != settings.embedded or (
        not asked.embedded and asked.temporal_address != settings.temporal_address
    ):
        wanted = "its own Temporal server" if asked.embedded else asked.temporal_address
        raise UsageError(
            f"this install runs with Temporal at {settings.temporal_address}, not {wanted}: "
            "run down first"
        )


def _wait_temporal(settings: Settings, environ: Mapping[str, str]) -> None:
    """Wait for Temporal; its own log has the reason when an embedded one does not come up."""
    try:
        temporal_server.wait_ready(settings, environ, _TEMPORAL_PATIENCE_S)
    except BackendError:
        if settings.embedded:
            _raise_for_failing(supervisor_client.status(settings.paths) or {}, limit=1)
        raise


def _wait_services(paths: StatePaths, report: Report) -> None:
    deadline = time.monotonic() + _READY_PATIENCE_S
    shown: set[str] = set()
    while True:
        states = supervisor_client.status(paths)
        if states is None:
            log = paths.logs / "supervisor.log"
            raise BackendError(
                f"the supervisor ended: {supervisor_client.last_line(log)} (log: {log})"
            )
        for name, state in states.items():
            if state["ready"] and name not in shown:
                shown.add(name)
                report("services", f"{name} is ready")
        if len(shown) == len(states):
            return
        _raise_for_failing(states, limit=_GIVE_UP_RESTARTS)
        if time.monotonic() > deadline:
            late = [name for name in states if name not in shown]
            raise BackendError(f"not ready in time: {', '.join(late)} (logs: {paths.logs})")
        time.sleep(0.1)


def _raise_for_failing(states: Mapping[str, dict[str, Any]], *, limit: int) -> None:
    for name, state in states.items():
        if not state["ready"] and state["restarts"] >= limit:
            log = Path(state["log"])
            raise BackendError(
                f"{name} does not stay up: {supervisor_client.last_line(log)} (log: {log})"
            )


def checkout() -> str:
    """The source tree that this program runs from; empty when it is installed from a wheel."""
    root = Path(__file__).resolve().parents[2]
    return str(root) if (root / "pyproject.toml").is_file() else ""


def version() -> str:
    """The version of this program."""
    return importlib.metadata.version("greenroom")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
