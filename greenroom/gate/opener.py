"""The opener: a small root process that opens sockets inside containers' network namespaces.

It reads no network input. It answers one request per connection on ``run/opener.sock``, one
after the other, to root (everything) and to the gate's user (``listen`` only):

    {"op":"listen","container":C}                            sockets over SCM_RIGHTS
    {"op":"connector","container":C}                         one, not connected, as above
    {"op":"mount","container":C,"uid":N,"gid":N,"size_mib":N}
    {"op":"unmount","container":C}

What to open it takes from the root-written ``slots/C.json``, never from the caller. Standard
library only, and a single thread.
"""

from __future__ import annotations

import array
import json
import os
import pwd
import re
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from greenroom.core.paths import StatePaths
from greenroom.gate import personal, syscalls
from greenroom.gate.namespaces import RefusedError, close_all, open_connector, open_listeners

GATE_USERS = ("greenroom-gate", "nobody")
"""The gate's user: the first of these that exists."""
FDS_PER_MESSAGE = 200
_REQUEST_TIMEOUT_S = 2.0
_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class GateUser:
    """Ids of the unprivileged user that the gate runs as."""

    uid: int
    gid: int


def gate_user() -> GateUser:
    """The ids of the gate's user. Raises LookupError when no candidate exists."""
    for name in GATE_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return GateUser(entry.pw_uid, entry.pw_gid)
    raise LookupError(f"none of the users {', '.join(GATE_USERS)} exists")


def prepare_folders(paths: StatePaths, user: GateUser) -> None:
    """Give the gate what it needs of the state folder and nothing more. Raises OSError.

    ``run/`` is sticky: the gate can make its socket there, but not touch those of root.
    """
    paths.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder, mode in ((paths.run, 0o1775), (paths.slots, 0o750)):
        folder.mkdir(exist_ok=True)
        os.chown(folder, -1, user.gid)
        folder.chmod(mode)
    personal.ensure_root(paths.personal_root)


def _whole(request: dict[str, Any], key: str, low: int, high: int) -> int:
    value = request.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RefusedError("bad_request", f"{key} must be a number from {low} to {high}")
    return value


class Opener:
    """Answers requests on one socket until it is killed."""

    def __init__(self, paths: StatePaths, user: GateUser) -> None:
        self._paths = paths
        self._user = user

    def listen_socket(self) -> socket.socket:
        """The bound control socket, 0660 root:gate. Raises OSError."""
        path = self._paths.opener_socket
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(path))
        os.chown(path, -1, self._user.gid)
        path.chmod(0o660)
        server.listen(256)
        return server

    def serve(self, server: socket.socket) -> NoReturn:
        """Accept for ever."""
        while True:
            peer, _ = server.accept()
            with peer:
                try:
                    self.answer(peer)
                except OSError as error:
                    # The caller went away or sent nothing: its loss, the next one is waiting.
                    sys.stderr.write(f"opener: caller lost: {error}\n")

    def answer(self, peer: socket.socket) -> None:
        """Carry out one request and reply. Raises OSError when the peer is gone or silent."""
        peer.settimeout(_REQUEST_TIMEOUT_S)
        _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        with peer.makefile("rb") as stream:
            line = stream.readline(4096)
        if not line:
            return  # somebody only looked whether we are here
        sockets: list[socket.socket] = []
        try:
            sockets = self._dispatch(uid, line)
            reply: dict[str, Any] = {"ok": True, "listeners": len(sockets)}
        except RefusedError as error:
            reply = {"ok": False, "error": error.code, "message": str(error)}
        except (OSError, personal.UnsafePathError) as error:
            reply = {"ok": False, "error": "failed", "message": str(error)}
        try:
            peer.sendall(json.dumps(reply).encode() + b"\n")
            _send_sockets(peer, sockets)
        finally:
            close_all(sockets)

    def _dispatch(self, uid: int, line: bytes) -> list[socket.socket]:
        try:
            request = json.loads(line)
        except ValueError as error:
            raise RefusedError("bad_request", "not JSON") from error
        if not isinstance(request, dict):
            raise RefusedError("bad_request", "not an object")
        op, container = request.get("op"), request.get("container")
        if uid != 0 and not (uid == self._user.uid and op == "listen"):
            raise RefusedError("forbidden", f"uid {uid} may not {op}")
        if not isinstance(container, str) or not _CONTAINER.fullmatch(container):
            raise RefusedError("bad_request", f"{container!r} is not a container id")
        if op == "listen":
            return open_listeners(self._paths, container)
        if op == "connector":
            return [open_connector(self._paths, container)]
        if op == "mount":
            spec = personal.TmpfsSpec(
                uid=_whole(request, "uid", 1, 2**32 - 2),
                gid=_whole(request, "gid", 1, 2**32 - 2),
                size_mib=_whole(request, "size_mib", 1, personal.MAX_SIZE_MIB),
            )
            personal.mount(self._paths.personal_root, container, spec)
        elif op == "unmount":
            personal.unmount(self._paths.personal_root, container)
        else:
            raise RefusedError("bad_request", f"unknown op {op!r}")
        return []


def _send_sockets(peer: socket.socket, sockets: list[socket.socket]) -> None:
    """Pass the descriptors in batches (the kernel takes at most 253 at once). Raises OSError."""
    for start in range(0, len(sockets), FDS_PER_MESSAGE):
        numbers = [each.fileno() for each in sockets[start : start + FDS_PER_MESSAGE]]
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers))]
        peer.sendmsg([b"."], ancillary)


def enter_host_mounts() -> None:
    """Join the mount namespace of process 1, so that mounts reach the Docker Engine.

    A service manager may have started us in a private one. Where process 1 may not be looked
    at (nested machines) our own is taken to be the host's. Raises OSError when joining fails.
    """
    try:
        if Path("/proc/1/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink():
            return
        fd = os.open("/proc/1/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        syscalls.setns(fd, syscalls.CLONE_NEWNS)
    finally:
        os.close(fd)


def run(paths: StatePaths, user: GateUser) -> NoReturn:
    """Serve for ever; prints ``ready`` once requests are answered. Raises OSError."""
    enter_host_mounts()
    prepare_folders(paths, user)
    opener = Opener(paths, user)
    server = opener.listen_socket()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    opener.serve(server)


def main() -> NoReturn:
    """Entry point of ``greenroom opener``."""
    # Imported here: the settings are the composition's business, not the opener's.
    from greenroom.services.settings import load_settings  # noqa: PLC0415

    run(load_settings(os.environ).paths, gate_user())
