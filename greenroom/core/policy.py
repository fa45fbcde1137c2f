"""What a container may reach: endpoints, the policy of each phase, and how names get addresses.

A policy is one value that is swapped whole. The gate matches names exactly; names are compared
in lower case without a trailing dot.
"""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from greenroom.core.errors import PlannedError, UsageError

PROXY = ("127.0.0.1", 3128)
"""Where the gate's proxy listens inside every container."""
GIT_NAME = "git.greenroom.internal"
GIT = ("127.0.0.2", 80)
"""Name and address of the read-only git server inside every container."""
BLIND_PORTS = (443, 80)
"""Ports that are allowed when an endpoint names none."""
_BLIND_NETWORK = ipaddress.ip_network("127.20.0.0/16")
_NAME = re.compile(r"^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*$")
MAX_NAMES = 200


class Phase(StrEnum):
    """Which of a container's policies the gate applies now."""

    PROVISION = "provision"
    PARKED = "parked"
    CLAIMED = "claimed"
    ENDED = "ended"


class Endpoint(BaseModel):
    """One host name (or literal address) and the ports allowed on it.

    ``named`` endpoints may resolve to private and loopback addresses: somebody wrote them down.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    ports: tuple[int, ...] = BLIND_PORTS
    named: bool = False


class Policy(BaseModel):
    """What one phase allows. ``git`` is the mirror of the pool's own repository."""

    model_config = ConfigDict(frozen=True)

    allow: tuple[Endpoint, ...] = ()
    git: bool = False

    def match(self, host: str, port: int) -> Endpoint | None:
        """The endpoint that allows ``host:port``, or None."""
        wanted = canonical_host(host)
        for endpoint in self.allow:
            if endpoint.host == wanted and port in endpoint.ports:
                return endpoint
        return None


class Listener(BaseModel):
    """One socket that the opener makes inside a container's namespace.

    ``kind``: ``proxy``, ``git``, ``tls``, ``http`` or ``raw``; ``host`` is the name that the
    address stands for (blind kinds only).
    """

    model_config = ConfigDict(frozen=True)

    address: str
    port: int
    kind: str
    host: str = ""


class NetworkPlan(BaseModel):
    """All that a container's namespace needs: hosts lines, listeners, and a policy per phase."""

    model_config = ConfigDict(frozen=True)

    hosts: dict[str, str] = Field(default_factory=dict)
    listeners: tuple[Listener, ...] = ()
    policies: dict[Phase, Policy] = Field(default_factory=dict)


def canonical_host(host: str) -> str:
    """Lower case, without a trailing dot or the brackets of an IPv6 literal."""
    return host.strip().rstrip(".").lower().removeprefix("[").removesuffix("]")


def parse_endpoint(text: str) -> Endpoint:
    """``name``, ``name:port`` or ``a.b.c.d:port`` as written in a pool file's ``network``.

    An endpoint with a port written down, or a literal address, counts as named. Raises
    UsageError, or PlannedError for ``*.suffix``.
    """
    raw = text.strip()
    if raw.startswith("*"):
        raise PlannedError(f"{text!r}: *.suffix names are planned; write the exact names for now")
    host, colon, port = raw.rpartition(":")
    if not colon or (":" in host and not raw.startswith("[")):
        host, port = raw, ""
    host = canonical_host(host)
    literal = _is_address(host)
    if not literal and not _NAME.fullmatch(host):
        raise UsageError(f"{text!r} is not a host name; write name, name:port or address:port")
    if not port:
        return Endpoint(host=host, named=literal)
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UsageError(f"{text!r}: the port must be a number from 1 to 65535")
    return Endpoint(host=host, ports=(int(port),), named=True)


def merge(*groups: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    """One endpoint per host with the union of ports, sorted by host."""
    by_host: dict[str, Endpoint] = {}
    for endpoint in (e for group in groups for e in group):
        known = by_host.get(endpoint.host)
        if known is None:
            by_host[endpoint.host] = endpoint
        else:
            ports = tuple(sorted({*known.ports, *endpoint.ports}))
            named = known.named or endpoint.named
            by_host[endpoint.host] = Endpoint(host=endpoint.host, ports=ports, named=named)
    return tuple(by_host[host] for host in sorted(by_host))


def plan_network(
    provision: tuple[Endpoint, ...] | None, claimed: tuple[Endpoint, ...]
) -> NetworkPlan:
    """Addresses, listeners and the four policies of a container.

    ``provision`` is None for a slot (which never enters that phase). Listeners cover the union,
    because /etc/hosts is written once at creation; which of them answer is the phase's policy.
    Raises UsageError past MAX_NAMES names.
    """
    policies = {
        Phase.PARKED: Policy(git=True),
        Phase.CLAIMED: Policy(allow=merge(claimed), git=True),
        Phase.ENDED: Policy(),
    }
    if provision is not None:
        policies[Phase.PROVISION] = Policy(allow=merge(provision), git=True)
    union = merge(provision or (), claimed)
    if len(union) > MAX_NAMES:
        raise UsageError(f"{len(union)} names are allowed by this pool; at most {MAX_NAMES}")
    hosts = {GIT_NAME: GIT[0]}
    listeners = [
        Listener(address=PROXY[0], port=PROXY[1], kind="proxy"),
        Listener(address=GIT[0], port=GIT[1], kind="git"),
    ]
    for index, endpoint in enumerate(e for e in union if not _is_address(e.host)):
        address = str(_BLIND_NETWORK[index + 1])
        hosts[endpoint.host] = address
        listeners += [
            Listener(address=address, port=port, kind=_kind(port), host=endpoint.host)
            for port in endpoint.ports
        ]
    return NetworkPlan(hosts=hosts, listeners=tuple(listeners), policies=policies)


def proxy_environment() -> dict[str, str]:
    """The variables by which proxy-aware programs find the gate."""
    proxy = f"http://{PROXY[0]}:{PROXY[1]}"
    bypass = f"127.0.0.1,localhost,{GIT_NAME}"
    both = {"http_proxy": proxy, "https_proxy": proxy, "all_proxy": proxy, "no_proxy": bypass}
    return {**both, **{name.upper(): value for name, value in both.items()}}


def address_allowed(address: str, endpoint: Endpoint) -> bool:
    """Whether the gate may connect to ``address`` for ``endpoint`` (design, section 6).

    Anything that is not a global unicast address (private, loopback, link-local with the
    metadata addresses, multicast, reserved) needs an endpoint that was named.
    """
    ip = ipaddress.ip_address(address)
    mapped = getattr(ip, "ipv4_mapped", None)
    if mapped is not None:
        ip = mapped
    if ip.is_multicast or ip.is_unspecified:
        return False
    return endpoint.named or ip.is_global


def _kind(port: int) -> str:
    return {443: "tls", 80: "http"}.get(port, "raw")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
