"""What a container may reach: parsing, matching, plans of listeners, addresses."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.core.errors import PlannedError, UsageError
from greenroom.core.policy import (
    BLIND_PORTS,
    MAX_NAMES,
    Endpoint,
    Phase,
    Policy,
    address_allowed,
    merge,
    parse_endpoint,
    plan_network,
    proxy_environment,
)

hosts = st.from_regex(r"[a-z][a-z0-9]{0,5}(\.[a-z]{1,4}){1,2}", fullmatch=True)
endpoints = st.builds(
    Endpoint,
    host=hosts,
    ports=st.lists(st.sampled_from([80, 443, 22, 5432]), min_size=1, unique=True).map(
        lambda p: tuple(sorted(p))
    ),
    named=st.booleans(),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("api.example.com", Endpoint(host="api.example.com")),
        ("API.Example.com.", Endpoint(host="api.example.com")),
        ("db.example.com:5432", Endpoint(host="db.example.com", ports=(5432,), named=True)),
        ("203.0.113.7:8080", Endpoint(host="203.0.113.7", ports=(8080,), named=True)),
        ("203.0.113.7", Endpoint(host="203.0.113.7", named=True)),
        ("[2001:db8::1]:443", Endpoint(host="2001:db8::1", ports=(443,), named=True)),
        ("2001:db8::1", Endpoint(host="2001:db8::1", named=True)),
    ],
)
def test_endpoints_as_written(text: str, expected: Endpoint) -> None:
    assert parse_endpoint(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a b", "http://x", "x/y", "x:0", "x:65536", "x:http", "-x", ".x", "x..y", "é.com"]
)
def test_endpoints_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_endpoint(text)


def test_suffixes_are_planned() -> None:
    with pytest.raises(PlannedError):
        parse_endpoint("*.example.com")


@given(st.lists(endpoints, max_size=6), hosts, st.sampled_from([22, 80, 443, 8443]))
def test_a_policy_matches_exactly_what_it_names(
    allow: list[Endpoint], host: str, port: int
) -> None:
    policy = Policy(allow=tuple(allow))
    found = policy.match(host.upper() + ".", port)
    assert (found is not None) == any(e.host == host and port in e.ports for e in allow)


def test_a_name_inside_another_is_not_matched() -> None:
    policy = Policy(allow=(Endpoint(host="example.com"),))
    for host in ("evil-example.com", "example.com.evil.org", "a.example.com", "xample.com"):
        assert policy.match(host, 443) is None


@given(st.lists(endpoints, max_size=6))
def test_merging_loses_and_adds_nothing(allow: list[Endpoint]) -> None:
    merged = merge(tuple(allow))
    assert [e.host for e in merged] == sorted({e.host for e in allow})
    pairs = {(e.host, port) for e in allow for port in e.ports}
    assert {(e.host, port) for e in merged for port in e.ports} == pairs


@given(st.none() | st.lists(endpoints, max_size=6).map(tuple), st.lists(endpoints, max_size=6))
def test_every_allowed_name_has_its_own_address_and_listeners(
    provision: tuple[Endpoint, ...] | None, claimed: list[Endpoint]
) -> None:
    plan = plan_network(provision, tuple(claimed))
    addresses = list(plan.hosts.values())
    assert len(set(addresses)) == len(addresses)
    assert all(ipaddress.ip_address(a).is_loopback for a in addresses)
    bound = [(item.address, item.port) for item in plan.listeners]
    assert len(set(bound)) == len(bound)
    for endpoint in [*(provision or ()), *claimed]:
        for port in endpoint.ports:
            assert (plan.hosts[endpoint.host], port) in bound


def test_the_phases_of_a_slot() -> None:
    plan = plan_network(None, (Endpoint(host="api.example.com"),))
    assert Phase.PROVISION not in plan.policies
    assert plan.policies[Phase.PARKED] == Policy(git=True)
    assert plan.policies[Phase.ENDED] == Policy()
    assert plan.policies[Phase.CLAIMED].match("api.example.com", 443) is not None
    assert plan.policies[Phase.CLAIMED].git


def test_too_many_names_are_refused() -> None:
    many = tuple(Endpoint(host=f"h{n}.example.com") for n in range(MAX_NAMES + 1))
    with pytest.raises(UsageError, match="at most"):
        plan_network(None, many)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
    ],
)
def test_inner_addresses_need_a_name_that_somebody_wrote_down(address: str) -> None:
    assert not address_allowed(address, Endpoint(host="x.example.com"))
    assert address_allowed(address, Endpoint(host="x.example.com", named=True))


@pytest.mark.parametrize("address", ["0.0.0.0", "224.0.0.1", "ff02::1", "::", "::ffff:0.0.0.0"])
def test_some_addresses_are_never_reached(address: str) -> None:
    assert not address_allowed(address, Endpoint(host="x.example.com", named=True))


def test_global_addresses_are_reached() -> None:
    assert address_allowed("9.9.9.9", Endpoint(host="x.example.com"))


def test_the_proxy_is_told_in_both_letter_cases() -> None:
    variables = proxy_environment()
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        assert variables[name] == variables[name.upper()]
    assert BLIND_PORTS == (443, 80)
