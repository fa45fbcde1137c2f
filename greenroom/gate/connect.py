"""Connections from the gate to the outside: directly, or through the host's own proxy."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from greenroom.core.errors import UsageError
from greenroom.core.policy import Endpoint
from greenroom.gate.resolve import Resolver, checked_addresses, system_addresses

CONNECT_TIMEOUT_S = 20.0
ONE_ADDRESS_TIMEOUT_S = 6.0
STREAM_LIMIT = 1 << 17
"""Bytes that a stream buffers before its sender is held back."""


class UpstreamError(Exception):
    """The upstream could not be reached. ``timed_out`` tells a 504 from a 502."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


@dataclass(frozen=True)
class UpstreamProxy:
    """The host's own way out.

    ``authorization`` is a header value or empty; ``no_proxy`` as in the variable of that name.
    """

    host: str
    port: int
    authorization: str = ""
    no_proxy: str = ""

    def serves(self, host: str) -> bool:
        """Whether connections to ``host`` go through this proxy."""
        for entry in self.no_proxy.lower().split(","):
            suffix = entry.strip().removeprefix("*").removeprefix(".")
            if entry.strip() == "*" or (suffix and (f".{host}").endswith(f".{suffix}")):
                return False
        return True


def upstream_proxy(environ: Mapping[str, str]) -> UpstreamProxy | None:
    """The proxy that ``HTTPS_PROXY`` names, if any. Raises UsageError when it is not usable."""
    url = environ.get("https_proxy") or environ.get("HTTPS_PROXY") or ""
    if not url:
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme != "http" or not parts.hostname:
        raise UsageError("HTTPS_PROXY must be http://[user:password@]host[:port]")
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = "Basic " + base64.b64encode(pair).decode("ascii")
    return UpstreamProxy(
        host=parts.hostname,
        port=parts.port or 3128,
        authorization=authorization,
        no_proxy=environ.get("no_proxy") or environ.get("NO_PROXY") or "",
    )


@dataclass(frozen=True)
class Outside:
    """How the gate gets out."""

    proxy: UpstreamProxy | None = None
    resolver: Resolver = system_addresses

    async def connect(self, endpoint: Endpoint, port: int) -> tuple[StreamReader, StreamWriter]:
        """A connection to an endpoint that a policy allows.

        Raises ResolveError, AddressError (both from ``resolve``), UpstreamError.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if self.proxy is not None and self.proxy.serves(endpoint.host):
                    return await _through(self.proxy, endpoint.host, port)
                addresses = await checked_addresses(endpoint, port, self.resolver)
                return await _first_of(addresses, port)
        except TimeoutError as error:
            raise UpstreamError("no answer in time", timed_out=True) from error


async def _first_of(addresses: list[str], port: int) -> tuple[StreamReader, StreamWriter]:
    """A connection to the first address that answers. Raises UpstreamError, TimeoutError."""
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(ONE_ADDRESS_TIMEOUT_S if len(addresses) > 1 else None):
                reader, writer = await asyncio.open_connection(address, port, limit=STREAM_LIMIT)
        except TimeoutError:
            failure = TimeoutError(f"{address} does not answer")
        except OSError as error:
            failure = error
        else:
            tune(writer)
            return reader, writer
    raise UpstreamError(
        failure.strerror or str(failure), timed_out=isinstance(failure, TimeoutError)
    )


def tune(writer: StreamWriter) -> None:
    """Notice a dead peer some day, and do not hold small packets back."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def reset(writer: StreamWriter) -> None:
    """Drop a connection at once, so that the peer sees a reset and not an orderly end."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _through(proxy: UpstreamProxy, host: str, port: int) -> tuple[StreamReader, StreamWriter]:
    """A tunnel that the host's proxy opened. Raises UpstreamError."""
    try:
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=STREAM_LIMIT)
    except OSError as error:
        raise UpstreamError(f"the host's proxy: {error.strerror or error}") from error
    try:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        writer.write("\r\n".join([*lines, "", ""]).encode("ascii"))
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        _check_tunnel(head)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        writer.transport.abort()
        raise UpstreamError(f"the host's proxy broke off: {error}") from error
    except BaseException:
        writer.transport.abort()
        raise
    tune(writer)
    return reader, writer


def _check_tunnel(head: bytes) -> None:
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(words) < 2 or not words[1].startswith(b"2"):
        said = words[1].decode("latin-1") if len(words) > 1 else "nothing"
        raise UpstreamError(f"the host's proxy said {said}")


def from_environment() -> Outside:
    """The way out that this process's environment describes. Raises UsageError."""
    return Outside(proxy=upstream_proxy(os.environ))
