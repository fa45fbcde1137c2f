"""Where the API is: a host's Unix socket, or an address with a token."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from greenroom.core.errors import BackendError, UsageError
from greenroom.core.paths import StatePaths, state_root


@dataclass(frozen=True)
class Address:
    """``url`` is the base of all paths; with ``paths``, it is spoken over that install's socket."""

    url: str
    paths: StatePaths | None = None
    token: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    @property
    def websocket_url(self) -> str:
        """The base of all paths of WebSockets."""
        return "ws" + self.url.removeprefix("http")

    def may_come_back(self) -> bool:
        """Whether an API that cannot be connected to is probably being restarted.

        On this machine its supervisor would say so; of another one nobody knows.
        """
        if self.paths is None:
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.paths.supervisor_socket)) == 0

    def unreachable(self, error: Exception) -> BackendError:
        """What to tell when nothing can be connected to."""
        if self.paths is None:
            return BackendError(f"the API at {self.url} cannot be reached: {error}")
        return BackendError(
            f"the API at {self.paths.api_socket} cannot be reached ({error}): start it with "
            "`greenroom up`, name its state folder in GREENROOM_STATE, or another host's API in "
            "GREENROOM_URL and GREENROOM_TOKEN"
        )


def find_address(
    url: str = "", token: str = "", environ: Mapping[str, str] | None = None
) -> Address:
    """The API that the arguments name, else the environment. Raises UsageError.

    The environment's is ``GREENROOM_URL`` with ``GREENROOM_TOKEN``, else the socket of the install
    that ``GREENROOM_STATE`` or the user selects.
    """
    known = os.environ if environ is None else environ
    named = url or known.get("GREENROOM_URL", "")
    if not named:
        root = state_root(known, root=os.geteuid() == 0, home=Path.home())
        return Address("http://localhost", StatePaths(root.absolute()))
    parts = urlsplit(named)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise UsageError(f"GREENROOM_URL {named!r}: write http://HOST:PORT or https://HOST:PORT")
    given = token or known.get("GREENROOM_TOKEN", "")
    if not given.isascii() or not given.isprintable() or " " in given:
        raise UsageError("GREENROOM_TOKEN is not one line of printable characters")
    return Address(named.rstrip("/"), token=given)
