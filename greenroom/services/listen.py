"""Where the API listens beside its Unix socket: loopback, or anywhere with TLS."""

from __future__ import annotations

import ipaddress
import re
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from greenroom.core.errors import UsageError

if TYPE_CHECKING:
    import ssl

OFF = "off"
_FORM = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True)
class Listen:
    """An address to listen on, with the files of its certificate and key, or without TLS."""

    host: str
    port: int
    cert: str = ""
    key: str = ""

    @property
    def url(self) -> str:
        """What a client writes into GREENROOM_URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.cert else 'http'}://{host}:{self.port}"


@dataclass(frozen=True)
class Asked:
    """What ``up`` was asked for; empty: as last time. ``listen`` may be ``off``."""

    listen: str = ""
    cert: str = ""
    key: str = ""

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Asked:
        """What the environment asks for."""
        return cls(
            environ.get("GREENROOM_LISTEN", ""),
            environ.get("GREENROOM_TLS_CERT", ""),
            environ.get("GREENROOM_TLS_KEY", ""),
        )

    def after(self, before: Asked) -> Asked:
        """What is wanted now, given what was wanted last time.

        An address that is given anew brings its own certificate; without one, last time's stays,
        with the certificate that is given for it.
        """
        if self.listen == OFF:
            return Asked()
        if self.listen:
            return self
        return Asked(before.listen, self.cert or before.cert, self.key or before.key)


def parse_listen(asked: Asked) -> Listen | None:
    """The listener that is asked for; None for none. Raises UsageError.

    Without TLS only loopback is allowed: tokens and secrets would go over a network in the clear.
    """
    if bool(asked.cert) != bool(asked.key):
        raise UsageError("a certificate and its key go together: --tls-cert and --tls-key")
    if not asked.listen:
        if asked.cert:
            raise UsageError("--tls-cert needs an address: --listen 0.0.0.0:8443")
        return None
    found = _FORM.fullmatch(asked.listen)
    port = int(found[3]) if found else 0
    if not found or not 0 < port < 65536:
        raise UsageError(f"--listen {asked.listen!r}: write an address and a port, 127.0.0.1:8080")
    host = "127.0.0.1" if found[2] == "localhost" else found[1] or found[2]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise UsageError(
            f"--listen {asked.listen!r}: write an IP address of this machine, not a name"
        ) from None
    if not address.is_loopback and not asked.cert:
        raise UsageError(
            f"{asked.listen} is not loopback: tokens and secrets would cross the network in the "
            "clear; give --tls-cert and --tls-key, or listen on 127.0.0.1"
        )
    return Listen(str(address), port, asked.cert, asked.key)


def tls_context(listen: Listen) -> ssl.SSLContext:
    """The server's side of TLS, 1.2 or newer. Raises UsageError."""
    import ssl  # noqa: PLC0415 - 10 ms that few commands need

    try:
        if Path(listen.key).stat().st_mode & stat.S_IROTH:
            raise UsageError(f"everybody may read {listen.key}: chmod 600 it")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(listen.cert, listen.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"TLS with {listen.cert} and {listen.key}: {error}") from error
    return context


def bind(listen: Listen) -> socket.socket:
    """A bound TCP socket, not listening yet. Raises OSError."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((listen.host, listen.port))
    except OSError:
        one.close()
        raise
    return one


def check(listen: Listen) -> None:
    """Whether it could be listened on now. Raises UsageError."""
    if listen.cert:
        tls_context(listen)
    try:
        bind(listen).close()
    except OSError as error:
        raise UsageError(
            f"{listen.host}:{listen.port} cannot be listened on: {error.strerror}"
        ) from error
