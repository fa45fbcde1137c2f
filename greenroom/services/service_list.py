"""The processes of an install: what runs them, and how to see that each is ready."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from greenroom.services import embedded_temporal
from greenroom.services.folders import ensure_gate_user
from greenroom.services.settings import Settings


@dataclass(frozen=True)
class Service:
    """One supervised process.

    ``ready`` says whether it does its work, given what it has printed since its start.
    ``grace_s`` is how long it may take to stop after SIGTERM. Its standard output and error go
    to ``logs/<name>.log``; it runs in ``/``, in a session of its own.
    """

    name: str
    command: tuple[str, ...]
    ready: Callable[[str], bool]
    grace_s: float = 10.0
    umask: int = 0o077
    environ: dict[str, str] = field(default_factory=dict)


def said_ready(output: str) -> bool:
    """Whether a line ``ready`` is in the output of a service of ours."""
    return any(line.strip() == "ready" for line in output.splitlines())


def listening_on(port: int) -> Callable[[str], bool]:
    """A check that something accepts connections on a port of 127.0.0.1."""

    def check(output: str) -> bool:  # noqa: ARG001 - the shape of a check
        with socket.socket() as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return check


def ahead(command: tuple[str, ...]) -> tuple[str, ...]:
    """The command with a niceness below zero: what a claim waits for goes before preparing.

    Where that is not permitted, ``nice`` says so in the log and runs the command all the same.
    """
    return ("nice", "-n", "-10", *command)


def services(settings: Settings) -> list[Service]:
    """Every process of the install, in the order in which they start. Raises GreenroomError."""
    here = Path(sys.executable)
    program = str(here.parent / "greenroom")
    environ = {"GREENROOM_STATE": str(settings.paths.root), "PYTHONUNBUFFERED": "1"}
    gate_user = ensure_gate_user().pw_name
    # -P: what stands in the current directory is never imported.
    gate = (
        str(here),
        "-P",
        "-m",
        "greenroom.services.run_as",
        gate_user,
        "greenroom.gate.server:main",
    )
    workflows = (program, "worker", "--serve", "workflows")
    activities = (program, "worker", "--serve", "activities")
    ours = [
        Service("opener", ahead((program, "opener")), said_ready, umask=0o022, environ=environ),
        Service("gate", ahead(gate), said_ready, umask=0o007, environ=environ),
        Service("worker", ahead(workflows), said_ready, grace_s=40.0, environ=environ),
        Service("activities", activities, said_ready, grace_s=40.0, environ=environ),
        Service("api", ahead((program, "api")), said_ready, environ=environ),
    ]
    if settings.embedded:
        command = ahead(tuple(embedded_temporal.command(settings)))
        ready = listening_on(settings.decided.temporal_port)
        ours.insert(0, Service("temporal", command, ready, grace_s=15.0))
    return ours
