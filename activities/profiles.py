"""How Greenroom's containers are made: one settings document per kind of container."""

from __future__ import annotations

import json
import math
import os
import resource
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

from activities.context import HostContext
from activities.engine import Engine, Exec, Json, no_tick
from greenroom.core.config import Limits
from greenroom.core.errors import PreparationError
from greenroom.core.names import (
    LABEL_CONTAINER,
    LABEL_FINGERPRINT,
    LABEL_INSTALL,
    LABEL_KIND,
    LABEL_NAMESPACE,
    LABEL_POOL,
    LABEL_WORKFLOW,
    object_name,
    ulid,
)
from greenroom.core.slotfile import SlotRecord

LABEL_DEPENDENCIES = "greenroom.dependencies"
PERSONAL = "/run/greenroom"
"""Where a container sees its personal files."""
_LOG = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
_FILES = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
_ULIMITS = [{"Name": "nofile", "Soft": _FILES, "Hard": _FILES}]
"""The engine's own soft limit can be a million, over which apt and others loop for seconds."""
BUILDER_CALLS: list[Json] = [
    {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "args": []},
    {
        "names": ["socket"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
    },
]
"""What root in a builder needs beyond a slot: chroot, and NETLINK whole (useradd's audit)."""
_KEEPER = {"Entrypoint": ["sleep"], "Cmd": ["infinity"]}


@dataclass(frozen=True)
class Labels:
    """What every object of this install is labelled with."""

    pool: str
    kind: str
    container: str
    workflow: str
    fingerprint: str = ""


@dataclass(frozen=True)
class Shape:
    """What a container is made from. ``personal`` is the host's folder to show at PERSONAL."""

    image: str
    labels: Labels
    limits: Limits
    hosts: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""
    personal: Path | None = None


def new_ident() -> str:
    """A fresh ULID."""
    return ulid(time.time(), secrets.randbits(80))


def label_map(ctx: HostContext, labels: Labels) -> dict[str, str]:
    """The labels as Docker wants them."""
    return {
        LABEL_INSTALL: ctx.settings.install_id,
        LABEL_NAMESPACE: ctx.namespace_id,
        LABEL_POOL: labels.pool,
        LABEL_KIND: labels.kind,
        LABEL_CONTAINER: labels.container,
        LABEL_WORKFLOW: labels.workflow,
        LABEL_FINGERPRINT: labels.fingerprint,
    }


def own_label(ctx: HostContext) -> dict[str, str]:
    """The one label by which this install's objects are told from all others."""
    return {LABEL_INSTALL: ctx.settings.install_id}


def docker_name(ctx: HostContext, kind: str, ident: str) -> str:
    return object_name(ctx.settings.install_id, kind, ident)


def name_of(ctx: HostContext, record: SlotRecord) -> str:
    """The Docker name of a lease file's container."""
    return docker_name(ctx, record.kind, record.container)


def hardened(ctx: HostContext, shape: Shape) -> Json:
    """A slot (or a verify container, or a saver): nothing beyond its user, its limits, its gate.

    Raises PreparationError when the seccomp profile is missing.
    """
    body = _base(ctx, shape)
    body["HostConfig"] |= {
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={_seccomp(ctx)}"],
        "Privileged": False,
    }
    if shape.personal is not None:
        body["HostConfig"]["Mounts"] = [
            {
                "Type": "bind",
                "Source": str(shape.personal),
                "Target": PERSONAL,
                "ReadOnly": True,
                "BindOptions": {"Propagation": "rprivate"},
            }
        ]
    return body


def builder(ctx: HostContext, shape: Shape) -> Json:
    """A builder: Docker's default capabilities, but no network and no other way out either.

    Raises PreparationError when the seccomp profile is missing.
    """
    body = _base(ctx, shape)
    profile = json.loads(_seccomp(ctx))
    profile["syscalls"] += BUILDER_CALLS
    body["HostConfig"]["SecurityOpt"] = [f"seccomp={json.dumps(profile)}"]
    body["HostConfig"]["CpuShares"] = 256  # yields to claimed containers when CPUs are short
    return body


def _seccomp(ctx: HostContext) -> str:
    try:
        return ctx.paths.seccomp.read_text()
    except FileNotFoundError:
        raise PreparationError(
            f"the seccomp profile {ctx.paths.seccomp} is missing: run `greenroom up` again",
            step="create",
        ) from None


def _base(ctx: HostContext, shape: Shape) -> Json:
    cpus = min(shape.limits.cpus, float(os.cpu_count() or 1))  # Docker refuses more than there are
    return {
        **_KEEPER,
        "Image": shape.image,
        "User": shape.user,
        "WorkingDir": shape.workdir,
        "Labels": label_map(ctx, shape.labels),
        "Hostname": shape.labels.pool,
        "StopSignal": "SIGKILL",
        "HostConfig": {
            "NetworkMode": "none",
            "ExtraHosts": [f"{name}:{address}" for name, address in sorted(shape.hosts.items())],
            "Init": True,
            "NanoCpus": int(cpus * 1e9),
            "Memory": shape.limits.memory,
            "MemorySwap": shape.limits.memory,
            "PidsLimit": shape.limits.pids,
            "RestartPolicy": {"Name": "no"},
            "LogConfig": _LOG,
            "IpcMode": "private",
            "Ulimits": _ULIMITS,
        },
    }


def size_mib(limits: Limits) -> int:
    """The personal tmpfs's size in whole MiB."""
    return max(1, math.ceil(limits.personal / (1 << 20)))


def ask_image(engine: Engine, install_id: str, image: str, command: tuple[str, ...]) -> str:
    """What a command prints in a throw-away container of ``image``; empty when it fails."""
    name = object_name(install_id, "ask", new_ident())
    body = {
        **_KEEPER,
        "Image": image,
        "Labels": {LABEL_INSTALL: install_id, LABEL_KIND: "ask"},
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "LogConfig": _LOG,
            "Ulimits": _ULIMITS,
        },
    }
    ident = engine.create(name, body)
    try:
        engine.start(ident)
        done = engine.capture(Exec(ident, command), no_tick, limit=1 << 16)
        return done.stdout.strip() if done.code == 0 else ""
    finally:
        engine.remove(ident)
