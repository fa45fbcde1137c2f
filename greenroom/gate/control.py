"""How other processes speak to the gate: one JSON object per line on ``run/gate.sock``."""

from __future__ import annotations

import json
import socket
from typing import Any

from greenroom.core.errors import GateError
from greenroom.core.paths import StatePaths

MAX_LINE = 1 << 22
"""Bytes of the longest reply that is read (``list`` of a thousand containers is below 200 KB)."""


class GateUnavailable(GateError):  # noqa: N818  (reads as a state)
    """The gate or the opener does not answer; trying again may succeed."""


class GateRefused(GateError):  # noqa: N818  (as above)
    """The gate or the opener said no; ``reason`` is its error code, such as ``port_taken``."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)
        self.reason = reason


def checked(reply: object, who: str) -> dict[str, Any]:
    """A reply that said ``"ok": true``. Raises GateRefused, GateUnavailable."""
    if not isinstance(reply, dict):
        raise GateUnavailable(f"the {who} sent something that is no reply")
    if reply.get("ok") is not True:
        raise GateRefused(str(reply.get("error", "failed")), str(reply.get("message", "")))
    return reply


class GateClient:
    """Blocking client of the gate's control socket; one connection per request.

    Every method raises GateUnavailable when the gate does not answer, GateRefused when it
    refuses. Safe to use from several threads.
    """

    def __init__(self, paths: StatePaths, timeout_s: float = 10.0) -> None:
        self._path = str(paths.gate_socket)
        self._timeout_s = timeout_s

    def attach(self, container: str) -> None:
        """Open the listeners of a container. Reasons: port_taken, no_namespace, no_record."""
        self._ask({"op": "attach", "container": container})

    def apply(self, container: str) -> None:
        """Swap in the policy of the record as it stands now. Reasons: no_record, not_attached."""
        self._ask({"op": "apply", "container": container})

    def detach(self, container: str) -> None:
        """Close a container's listeners and connections; an unknown one is success."""
        self._ask({"op": "detach", "container": container})

    def list(self) -> dict[str, dict[str, Any]]:
        """By container: ``phase``, ``listeners``, ``connections``, or ``error``."""
        found: dict[str, dict[str, Any]] = self._ask({"op": "list"})["containers"]
        return found

    def stats(self) -> dict[str, dict[str, int]]:
        """By pool: ``allowed`` and ``denied`` since the gate started."""
        found: dict[str, dict[str, int]] = self._ask({"op": "stats"})["pools"]
        return found

    def _ask(self, request: dict[str, str]) -> dict[str, Any]:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(self._timeout_s)
                peer.connect(self._path)
                peer.sendall(json.dumps(request).encode() + b"\n")
                with peer.makefile("rb") as stream:
                    line = stream.readline(MAX_LINE)
        except OSError as error:
            raise GateUnavailable(f"the gate does not answer: {error}") from error
        try:
            return checked(json.loads(line), "gate")
        except ValueError as error:
            raise GateUnavailable("the gate broke off its reply") from error
