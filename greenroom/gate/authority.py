"""Strict readers of what a request names: ``host:port`` and ``http://host[:port]/path``.

Pure. Whatever two programs could read in two ways is refused: user information, spaces, control
characters, ports out of range.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from greenroom.core.policy import canonical_host

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_ORIGIN_FORM = re.compile(rb"/[\x21-\x7e\x80-\xff]*")


class BadTargetError(ValueError):
    """Not something that names exactly one host and port."""


@dataclass(frozen=True)
class Target:
    """A host (canonical, see core.policy) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_authority(raw: bytes, default_port: int | None) -> Target:
    """``host:port``, or ``host`` alone when there is a default. Raises BadTargetError."""
    try:
        text = raw.decode("ascii")
    except UnicodeDecodeError as error:
        raise BadTargetError("a host name must be ASCII") from error
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        if not closing or (rest and not rest.startswith(":")):
            raise BadTargetError("not [address]:port")
        _check_v6(host)
        port = rest[1:] if rest else None
    else:
        host, colon, after = text.partition(":")
        port = after if colon else None
        if len(host) > 253 or not _NAME.fullmatch(host):
            raise BadTargetError("not a host name")
    if port is None:
        if default_port is None:
            raise BadTargetError("a port is needed")
        return Target(canonical_host(host), default_port)
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise BadTargetError("not a port")
    return Target(canonical_host(host), int(port))


def parse_absolute(raw: bytes) -> tuple[Target, bytes]:
    """Target and origin-form of an ``http://`` request target. Raises BadTargetError."""
    scheme, separator, rest = raw.partition(b"://")
    if not separator or scheme.lower() != b"http":
        raise BadTargetError("only http:// is forwarded; use CONNECT for anything else")
    end = min((at for at in (rest.find(c) for c in (b"/", b"?", b"#")) if at >= 0), default=None)
    authority = rest if end is None else rest[:end]
    path = b"/" if end is None else rest[end:]
    if path.startswith(b"?"):
        path = b"/" + path
    if not _ORIGIN_FORM.fullmatch(path) or b"#" in path:
        raise BadTargetError("not a path")
    return parse_authority(authority, 80), path


def origin_form(raw: bytes) -> bytes:
    """A request target that is a path, unchanged. Raises BadTargetError."""
    if not _ORIGIN_FORM.fullmatch(raw) or b"#" in raw:
        raise BadTargetError("not a path")
    return raw


def _check_v6(host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise BadTargetError("not an IPv6 address") from error
    if "%" in host:
        raise BadTargetError("zones are not allowed")
