"""Name resolution on behalf of containers: only after a name is allowed, and checked.

What is returned is connected to as it is; nothing is resolved a second time, so an answer that
changes in between changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

from greenroom.core.policy import Endpoint, address_allowed

RESOLVE_TIMEOUT_S = 10.0
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of a name; raises OSError."""


class ResolveError(Exception):
    """The name has no address now."""


class AddressError(Exception):
    """The name is allowed, but leads to an address that it may not lead to."""


async def system_addresses(host: str, port: int) -> list[str]:
    """Addresses by the host's own resolver, in its order, without repeats. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def checked_addresses(
    endpoint: Endpoint, port: int, resolver: Resolver = system_addresses
) -> list[str]:
    """The addresses of an allowed endpoint that the gate may connect to; never empty.

    Raises ResolveError, AddressError.
    """
    if _is_literal(endpoint.host):
        addresses = [endpoint.host]
    else:
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                addresses = await resolver(endpoint.host, port)
        except TimeoutError as error:
            raise ResolveError("name resolution timed out") from error
        except (OSError, UnicodeError) as error:
            raise ResolveError(f"name resolution failed: {error}") from error
    if not addresses:
        raise ResolveError("the name has no address")
    allowed = [address for address in addresses if may_connect(address, endpoint)]
    if not allowed:
        raise AddressError(f"{endpoint.host} leads to {addresses[0]}, a private address")
    return allowed


def may_connect(address: str, endpoint: Endpoint) -> bool:
    """Whether the endpoint's policy allows the address and any that is embedded in it."""
    if "%" in address:
        return False  # a scoped address is link-local
    ip = ipaddress.ip_address(address)
    inner: list[ipaddress.IPv4Address] = []
    if isinstance(ip, ipaddress.IPv6Address):
        # A translator or tunnel on the way would deliver these to the IPv4 address inside.
        if ip in _NAT64:
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF))
        if ip.sixtofour is not None:
            inner.append(ip.sixtofour)
        if ip.teredo is not None:
            inner.append(ip.teredo[1])
    return all(address_allowed(str(each), endpoint) for each in (ip, *inner))


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
