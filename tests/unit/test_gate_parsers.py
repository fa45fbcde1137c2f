"""The gate's parsers: TLS hello, authorities and request targets, addresses."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.core.policy import Endpoint, Policy
from greenroom.gate.authority import (
    BadTargetError,
    Target,
    origin_form,
    parse_absolute,
    parse_authority,
)
from greenroom.gate.connect import UpstreamProxy, upstream_proxy
from greenroom.gate.resolve import (
    AddressError,
    ResolveError,
    checked_addresses,
    may_connect,
)
from greenroom.gate.sni import MAX_HELLO, Verdict, sniff

LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


def hello(name: str | None) -> bytes:
    """The first flight of a real TLS client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def in_records(data: bytes, size: int) -> bytes:
    """The same handshake message, cut over TLS records of ``size`` bytes."""
    message = data[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(data[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@given(NAME)
def test_the_name_in_a_real_hello_is_found(name: str) -> None:
    sniffed = sniff(hello(name))
    assert (sniffed.verdict, sniffed.name) == (Verdict.HELLO, name)


def test_a_hello_without_a_name_has_none() -> None:
    assert sniff(hello(None)).verdict is Verdict.HELLO
    assert sniff(hello(None)).name is None


@given(st.integers(min_value=1, max_value=600))
def test_a_hello_over_several_records_is_put_together(size: int) -> None:
    sniffed = sniff(in_records(hello("api.example"), size))
    assert (sniffed.verdict, sniffed.name) == (Verdict.HELLO, "api.example")


@given(st.data())
def test_every_proper_prefix_is_incomplete(data: st.DataObject) -> None:
    whole = in_records(hello("api.example"), data.draw(st.integers(1, 600)))
    assert sniff(whole[: data.draw(st.integers(0, len(whole) - 1))]).verdict is Verdict.INCOMPLETE


@given(st.binary(max_size=300))
def test_garbage_never_raises_and_never_has_a_name_by_chance(data: bytes) -> None:
    assert sniff(data).name is None or data[:1] == b"\x16"


@given(st.data())
def test_a_damaged_hello_gives_a_verdict(data: st.DataObject) -> None:
    raw = bytearray(hello("api.example"))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=5)):
        raw[at] = data.draw(st.integers(0, 255))
    assert isinstance(sniff(bytes(raw)).verdict, Verdict)


def test_other_protocols_are_not_tls() -> None:
    assert sniff(b"SSH-2.0-x\r\n").verdict is Verdict.NOT_TLS
    assert sniff(b"GET / HTTP/1.1\r\n").verdict is Verdict.NOT_TLS
    assert sniff(b"\x16\x00").verdict is Verdict.NOT_TLS


def test_a_hello_that_never_ends_is_malformed() -> None:
    endless = (b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(16380)) + b"".join(
        b"\x16\x03\x01\x00\x01\x00" for _ in range(MAX_HELLO // 6)
    )
    assert sniff(endless).verdict is Verdict.MALFORMED


def test_two_server_names_are_malformed() -> None:
    name = b"\x00\x00" + (b"\x00\x0b" + b"\x00\x09" + b"\x00" + b"\x00\x06" + b"a.test")
    extensions = name + name
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(extensions).to_bytes(2, "big") + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    record = b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message
    assert sniff(record).verdict is Verdict.MALFORMED
    assert sniff(record.replace(extensions, name + bytes(len(name)))).verdict is not Verdict.HELLO


@given(NAME, st.integers(1, 65535))
def test_an_authority_reads_back(name: str, port: int) -> None:
    assert parse_authority(f"{name}:{port}".encode(), None) == Target(name, port)
    assert parse_authority(f"{name.upper()}.".encode(), port) == Target(name, port)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b":443",
        b"a",
        b"a:",
        b"a:0",
        b"a:65536",
        b"a:+1",
        b"a: 1",
        b"a b:1",
        b"user@a:1",
        b"a/b:1",
        b"a:1:2",
        b"[::1]",
        b"[::1",
        b"[::1]x:1",
        b"[a]:1",
        b"[fe80::1%eth0]:1",
        "ä:1".encode(),
        b"a\r\nb:1",
        b"a..b:1",
        b"a:1\n",
        b"a:\xb2",
    ],
)
def test_a_wrong_authority_is_refused(raw: bytes) -> None:
    with pytest.raises(BadTargetError):
        parse_authority(raw, None)


@given(st.binary(max_size=40))
def test_any_bytes_give_a_target_or_a_refusal(raw: bytes) -> None:
    try:
        target = parse_authority(raw, None)
    except BadTargetError:
        return
    assert parse_authority(str(target).encode(), None) == target


def test_absolute_targets() -> None:
    assert parse_absolute(b"http://a.test/x?y=1") == (Target("a.test", 80), b"/x?y=1")
    assert parse_absolute(b"HTTP://A.test:81") == (Target("a.test", 81), b"/")
    assert parse_absolute(b"http://a.test?q") == (Target("a.test", 80), b"/?q")
    assert parse_absolute(b"http://[2001:db8::1]:8080/")[0] == Target("2001:db8::1", 8080)
    for wrong in (b"https://a.test/", b"/x", b"http://u@a.test/", b"http://a.test/#f", b"http:///"):
        with pytest.raises(BadTargetError):
            parse_absolute(wrong)
    with pytest.raises(BadTargetError):
        origin_form(b"/a b")


@given(NAME, NAME, st.integers(1, 65535), st.integers(1, 65535))
def test_a_policy_allows_exactly_its_names_and_ports(
    name: str, other: str, port: int, wrong: int
) -> None:
    policy = Policy(allow=(Endpoint(host=name, ports=(port,)),))
    assert policy.match(name.upper() + ".", port) is not None
    assert (policy.match(other, port) is not None) == (other == name)
    assert (policy.match(name, wrong) is not None) == (wrong == port)
    assert policy.match(f"x.{name}", port) is None


PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "192.168.1.1",
    "172.17.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
    "ff02::1",
]


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_public_name_that_leads_to_a_private_address_is_refused(address: str) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return [address]

    with pytest.raises(AddressError):
        await checked_addresses(Endpoint(host="a.example"), 443, resolver)


async def test_only_the_good_addresses_of_a_name_are_used() -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1", "8.8.4.4", "169.254.169.254"]

    assert await checked_addresses(Endpoint(host="a.example"), 443, resolver) == ["8.8.4.4"]


async def test_a_named_endpoint_may_be_private_but_not_multicast() -> None:
    named = Endpoint(host="10.1.2.3", named=True)
    assert await checked_addresses(named, 443) == ["10.1.2.3"]
    assert may_connect("127.0.0.1", named)
    assert not may_connect("224.0.0.1", named)
    assert not may_connect("0.0.0.0", named)


async def test_a_name_without_address_says_so() -> None:
    async def nothing(_host: str, _port: int) -> list[str]:
        return []

    async def failing(_host: str, _port: int) -> list[str]:
        raise OSError("no such name")

    for resolver in (nothing, failing):
        with pytest.raises(ResolveError):
            await checked_addresses(Endpoint(host="a.example"), 443, resolver)


def test_the_hosts_own_proxy_is_read_from_the_environment() -> None:
    assert upstream_proxy({}) is None
    found = upstream_proxy(
        {"HTTPS_PROXY": "http://me:p%40ss@proxy.example:8080", "NO_PROXY": ".local.example, x"}
    )
    assert found == UpstreamProxy("proxy.example", 8080, "Basic bWU6cEBzcw==", ".local.example, x")
    assert found.serves("api.example")
    assert not found.serves("db.local.example")
    assert not found.serves("x")
    assert found.serves("yx")
