"""Blocking client of the opener; see ``opener.py`` for what it does."""

from __future__ import annotations

import array
import json
import socket
from typing import Any

from greenroom.core.errors import GateError
from greenroom.core.paths import StatePaths
from greenroom.gate.control import GateUnavailable, checked
from greenroom.gate.personal import TmpfsSpec

_MAX_REPLY = 65536
_MAX_FDS = 253


class OpenerClient:
    """One connection per request; safe to use from several threads.

    Every method raises GateUnavailable when the opener does not answer, GateRefused (with the
    opener's code as ``reason``) when it refuses.
    """

    def __init__(self, paths: StatePaths, timeout_s: float = 10.0) -> None:
        self._path = str(paths.opener_socket)
        self._timeout_s = timeout_s

    def listen(self, container: str) -> list[socket.socket]:
        """Listening sockets inside the container, in the order of its record's listeners."""
        return self._ask({"op": "listen", "container": container})

    def connector(self, container: str) -> socket.socket:
        """A TCP socket of the container's network, not connected yet."""
        (made,) = self._ask({"op": "connector", "container": container})
        return made

    def mount(self, container: str, spec: TmpfsSpec) -> None:
        """Mount the container's personal tmpfs; one that is there already is kept."""
        self._ask(
            {
                "op": "mount",
                "container": container,
                "uid": spec.uid,
                "gid": spec.gid,
                "size_mib": spec.size_mib,
            }
        )

    def unmount(self, container: str) -> None:
        """Unmount and remove the container's personal tmpfs; none is success."""
        self._ask({"op": "unmount", "container": container})

    def _ask(self, request: dict[str, Any]) -> list[socket.socket]:
        received: list[socket.socket] = []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(self._timeout_s)
                peer.connect(self._path)
                peer.sendall(json.dumps(request).encode() + b"\n")
                reply = checked(json.loads(_read_line(peer)), "opener")
                while len(received) < int(reply["listeners"]):
                    received += _receive(peer)
        except GateError:
            _close_all(received)
            raise
        except (OSError, ValueError, KeyError) as error:
            _close_all(received)
            raise GateUnavailable(f"the opener does not answer: {error}") from error
        return received


def _close_all(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _read_line(peer: socket.socket) -> bytes:
    """The reply line and no byte more: what follows it carries descriptors and must stay unread."""
    line = bytearray()
    while not line.endswith(b"\n"):
        chunk = peer.recv(_MAX_REPLY, socket.MSG_PEEK)
        if not chunk or len(line) > _MAX_REPLY:
            raise GateUnavailable("the opener broke off its reply")
        end = chunk.find(b"\n")
        line += peer.recv(len(chunk) if end < 0 else end + 1)
    return bytes(line)


def _receive(peer: socket.socket) -> list[socket.socket]:
    numbers = array.array("i")
    room = socket.CMSG_SPACE(_MAX_FDS * numbers.itemsize)
    data, ancillary, flags, _ = peer.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
    sockets = [socket.socket(fileno=number) for number in numbers]
    if not data or not sockets or flags & socket.MSG_CTRUNC:
        _close_all(sockets)
        raise GateUnavailable("the opener broke off the hand-over of sockets")
    return sockets
