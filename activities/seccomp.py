"""The seccomp profile of slots: what the engine itself gives, with few socket families.

The engine's default is not written down here: it is read from a throw-away container's own
bundle, so that a newer engine's better default is taken over. To it comes an allow-list of socket
families, because a network namespace does not confine VSOCK and the like.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from activities.context import HostContext
from activities.profiles import new_ident
from greenroom.core.errors import EngineError
from greenroom.core.names import LABEL_INSTALL, LABEL_KIND, object_name

_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16
_ROUTE = 0
_PART = "io.containerd.runtime.v2.task/moby"
_BUNDLES = ("/run/containerd", "/run/docker/containerd/daemon", "/var/run/docker/containerd/daemon")
_MULTIPLEXED = frozenset({"SCMP_ARCH_X86"})
"""Architectures whose ``socketcall`` hides the family in memory, where no filter can look."""
IMAGE = "greenroom/base"


def ensure_seccomp(ctx: HostContext, image: str = IMAGE) -> Path:
    """Write the profile of this engine to the state folder; returns its path.

    Made anew at each set-up: the engine may have been upgraded. Raises EngineError.
    """
    text = json.dumps(restrict(engine_default(ctx, image)), indent=1)
    path = ctx.paths.seccomp
    fresh = path.with_name(f".seccomp.{secrets.token_hex(4)}")
    fresh.write_text(text)
    fresh.chmod(0o644)
    fresh.replace(path)
    return path


def engine_default(ctx: HostContext, image: str) -> dict[str, Any]:
    """The engine's default profile as it is resolved for a container without capabilities.

    Raises EngineError when the engine has seccomp off, or keeps its bundles elsewhere.
    """
    name = object_name(ctx.settings.install_id, "ask", new_ident())
    body = {
        "Image": image,
        "Entrypoint": ["sleep"],
        "Cmd": ["infinity"],
        "Labels": {LABEL_INSTALL: ctx.settings.install_id, LABEL_KIND: "ask"},
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
        },
    }
    ident = ctx.engine.create(name, body)
    try:
        ctx.engine.start(ident)
        seen = ctx.engine.inspect(ident) or {}
        bundle = _bundle(ident, int(seen.get("State", {}).get("Pid", 0)))
        found = json.loads(bundle.read_text())["linux"].get("seccomp")
    finally:
        ctx.engine.remove(ident)
    if not isinstance(found, dict):
        raise EngineError("this Docker Engine runs containers without seccomp; Greenroom needs it")
    return found


def restrict(profile: dict[str, Any]) -> dict[str, Any]:
    """The profile with sockets of the families UNIX, INET, INET6 and NETLINK route only.

    Takes and gives the form that the engine's API reads. 32-bit x86 programs are refused whole.
    """
    kept = []
    for rule in profile.get("syscalls", []):
        names = [name for name in rule["names"] if name not in {"socket", "socketcall"}]
        if names:
            kept.append({**rule, "names": names})
    kept += [_socket(_UNIX), _socket(_INET), _socket(_INET6), _socket(_NETLINK, _ROUTE)]
    architectures = [a for a in profile.get("architectures", []) if a not in _MULTIPLEXED]
    made = {"defaultAction": profile["defaultAction"], "architectures": architectures}
    if "defaultErrnoRet" in profile:
        made["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return {**made, "syscalls": kept}


def _socket(family: int, protocol: int | None = None) -> dict[str, Any]:
    arguments = [{"index": 0, "value": family, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]
    if protocol is not None:
        arguments.append({"index": 2, "value": protocol, "valueTwo": 0, "op": "SCMP_CMP_EQ"})
    return {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": arguments}


def _bundle(ident: str, pid: int) -> Path:
    """The container's OCI configuration: where its shim works, or in one of the usual places."""
    folders = [Path(base) / _PART / ident for base in _BUNDLES]
    try:
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        folders.insert(0, Path(os.readlink(f"/proc/{parent}/cwd")))  # noqa: PTH115
    except OSError:
        pass  # not ours to see; one of the usual places then
    for folder in folders:
        if ident in folder.parts and (folder / "config.json").is_file():
            return folder / "config.json"
    raise EngineError(
        "the engine's own seccomp profile cannot be read: no bundle of a running container found "
        f"in {', '.join(_BUNDLES)}"
    )
