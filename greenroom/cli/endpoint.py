"""Where the API is: the Unix socket of this machine's install, or what GREENROOM_URL says.

``GREENROOM_URL`` is ``unix:///path/api.sock``, ``http://127.0.0.1:8080`` or ``https://host:port``;
``GREENROOM_TOKEN`` goes with the latter two. TLS is verified against ``GREENROOM_CA`` (a file of
certificates), else the system's (``SSL_CERT_FILE``). Only what quick commands need is imported.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths
from greenroom.services.settings import state_paths

if TYPE_CHECKING:
    import ssl

_DIAL_S = 30.0


@dataclass(frozen=True)
class Local:
    """The Unix socket ``path``; ``supervisor`` is the socket of who restarts a dead API."""

    path: Path
    supervisor: Path
    name: str
    host: str = "localhost"

    @property
    def headers(self) -> dict[str, str]:
        return {}

    def open(self, timeout_s: float) -> socket.socket:
        """A connection whose every step takes at most ``timeout_s`` seconds. Raises OSError."""
        return self.dial(timeout_s)

    def dial(self, timeout_s: float | None = None) -> socket.socket:
        """An open stream to the API, before TLS. Raises OSError."""
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            one.settimeout(timeout_s)
            one.connect(str(self.path))
        except OSError:
            one.close()
            raise
        return one

    def tls_context(self) -> ssl.SSLContext | None:
        """None: no TLS."""
        return None

    def restarts(self) -> bool:
        """Whether somebody starts a dead API again."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.supervisor)) == 0


@dataclass(frozen=True)
class Remote:
    """A host and port, over TLS or (loopback only) not."""

    host: str
    port: int
    tls: bool
    ca: str
    token: str
    name: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def open(self, timeout_s: float) -> socket.socket:
        """As ``Local.open``, with TLS. Raises UsageError for a bad GREENROOM_CA."""
        context = self.tls_context()
        plain = self.dial()
        try:
            plain.settimeout(timeout_s)
            return context.wrap_socket(plain, server_hostname=self.host) if context else plain
        except OSError:
            plain.close()
            raise

    def dial(self) -> socket.socket:
        """As ``Local.dial``; TLS comes on top."""
        plain = socket.create_connection((self.host, self.port), timeout=_DIAL_S)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(None)
        return plain

    def restarts(self) -> bool:
        """Not that we could know."""
        return False

    def tls_context(self) -> ssl.SSLContext | None:
        """What verifies the API's certificate. Raises UsageError for a bad GREENROOM_CA."""
        if not self.tls:
            return None
        import ssl  # noqa: PLC0415 - 10 ms that local commands do not need

        try:
            return ssl.create_default_context(cafile=self.ca or None)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"GREENROOM_CA: {self.ca}: {error}") from error


Endpoint = Local | Remote


def endpoint_of(environ: Mapping[str, str]) -> Endpoint:
    """The API that the environment selects. Raises UsageError."""
    address = environ.get("GREENROOM_URL", "")
    if not address:
        return local(state_paths(environ))
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"GREENROOM_URL {address!r}: {error}") from error
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        path = Path(parts.path)
        return Local(path, path.with_name("supervisor.sock"), f"at {path}")
    plain = parts.path in ("", "/") and not parts.query and not parts.username
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise UsageError(
            f"GREENROOM_URL {address!r}: write https://HOST:PORT, http://127.0.0.1:PORT or "
            "unix:///PATH/api.sock"
        )
    tls = parts.scheme == "https"
    if not tls and not _is_loopback(parts.hostname):
        raise UsageError(
            f"GREENROOM_URL {address!r}: only loopback goes without TLS, as everybody on the way "
            "could read the token; write https://"
        )
    return Remote(
        parts.hostname,
        port or (443 if tls else 80),
        tls,
        environ.get("GREENROOM_CA", ""),
        environ.get("GREENROOM_TOKEN", ""),
        f"at {address}",
    )


def local(paths: StatePaths) -> Local:
    """The API of the install in a state folder."""
    return Local(paths.api_socket, paths.supervisor_socket, f"in {paths.root}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
