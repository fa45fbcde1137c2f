"""The proxy and the blind listeners against real sockets on loopback, without Docker."""

import asyncio
from asyncio import StreamReader, StreamWriter
from pathlib import Path

import pytest
from gate_lab import Lab, echo, lab, until, upstream
from test_gate_parsers import hello, in_records

from greenroom.core.policy import Endpoint, Listener, Phase
from greenroom.gate import site as site_module

PROXY = Listener(address="127.77.0.1", port=3128, kind="proxy")


def endpoint(host: str, port: int, *, named: bool = True) -> Endpoint:
    return Endpoint(host=host, ports=(port,), named=named)


def claimed(found: Lab) -> list[tuple[str, str]]:
    return [(line["name"], line["verdict"]) for line in found.lines]


async def test_connect_reaches_an_allowed_name_and_nothing_else(tmp_path: Path) -> None:
    async with (
        upstream(echo) as port,
        lab(tmp_path, [PROXY], [endpoint("api.example", port)]) as gate,
    ):
        gate.names = {"api.example": "127.0.0.1", "other.example": "127.0.0.1"}
        reader, writer, head = await gate.tunnel(f"API.example.:{port}")
        assert head.startswith(b"HTTP/1.1 200 ")
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await until(lambda: len(gate.lines) == 1)
        line = gate.lines[0]
        assert (line["pool"], line["container"], line["claim"]) == ("p1", "c1", "claim-1")
        assert (line["verdict"], line["bytes_up"], line["bytes_down"]) == ("allowed", 5, 5)
        for wrong in (f"other.example:{port}", "api.example:1", f"127.0.0.1:{port}"):
            reader, writer, head = await gate.tunnel(wrong)
            assert head.startswith(b"HTTP/1.1 403 ")
            body = (await reader.read()).decode()
            assert body == f"greenroom: {wrong} is not in pool p1's allow-list (phase claimed)\n"
            assert body.strip().encode() in head.split(b"\r\n")[0]
            writer.close()
        assert gate.resolved == ["api.example"]  # a name that is not allowed is never looked up
        assert gate.books is not None
        assert gate.books.pools == {"p1": {"allowed": 1, "denied": 3}}


async def test_a_server_that_speaks_first_is_heard_at_once(tmp_path: Path) -> None:
    async def banner(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"SSH-2.0-test\r\n")
        await reader.readline()

    async with upstream(banner) as port:
        blind = Listener(address="127.77.0.2", port=port, kind="raw", host="git.example")
        async with lab(tmp_path, [PROXY, blind], [endpoint("git.example", port)]) as gate:
            gate.names = {"git.example": "127.0.0.1"}
            reader, writer, _ = await gate.tunnel(f"git.example:{port}")
            assert await reader.readline() == b"SSH-2.0-test\r\n"
            writer.close()
            reader, writer = await gate.dial(1)
            assert await reader.readline() == b"SSH-2.0-test\r\n"
            writer.close()


@pytest.mark.parametrize("size", [7, 10_000])
async def test_the_tls_name_must_be_the_name_that_was_asked_for(tmp_path: Path, size: int) -> None:
    async with upstream(echo) as port:
        blind = Listener(address="127.77.0.2", port=port, kind="tls", host="api.example")
        async with lab(tmp_path, [PROXY, blind], [endpoint("api.example", port)]) as gate:
            gate.names = {"api.example": "127.0.0.1"}
            for name, passes in (("api.example", True), (None, True), ("evil.example", False)):
                data = in_records(hello(name), size)
                for index in (0, 1):
                    if index == 0:
                        reader, writer, _ = await gate.tunnel(f"api.example:{port}")
                    else:
                        reader, writer = await gate.dial(1)
                    writer.write(data[:3])
                    await writer.drain()
                    writer.write(data[3:])
                    if passes:
                        assert await reader.readexactly(len(data)) == data
                    else:
                        with pytest.raises((OSError, asyncio.IncompleteReadError)):
                            await reader.readexactly(1)
                    writer.close()
            await until(lambda: sum(verdict == "denied" for _, verdict in claimed(gate)) == 2)


async def test_bytes_sent_ahead_of_the_answer_are_checked_and_kept(tmp_path: Path) -> None:
    async with (
        upstream(echo) as port,
        lab(tmp_path, [PROXY], [endpoint("api.example", port)]) as gate,
    ):
        gate.names = {"api.example": "127.0.0.1"}
        head = f"CONNECT api.example:{port} HTTP/1.1\r\n\r\n".encode()
        head = head.replace(b"\r\n\r\n", f"\r\nHost: api.example:{port}\r\n\r\n".encode())
        reader, writer = await gate.dial()
        writer.write(head + hello("api.example"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(3) == b"\x16\x03\x01"
        writer.close()
        reader, writer = await gate.dial()
        writer.write(head + hello("evil.example"))
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await reader.readexactly(100)  # more than the proxy's own answer
        writer.close()


async def test_the_four_ways_of_not_reaching_an_upstream(tmp_path: Path) -> None:
    async with upstream(echo) as port:
        pass  # closed again: nobody listens there now
    allow = [
        endpoint("closed.example", port),
        endpoint("nowhere.example", port),
        endpoint("rebound.example", port, named=False),
    ]
    async with lab(tmp_path, [PROXY], allow) as gate:
        gate.names = {"closed.example": "127.0.0.1", "rebound.example": "127.0.0.1"}
        for name, status in (("closed", 502), ("nowhere", 502), ("rebound", 403)):
            reader, writer, head = await gate.tunnel(f"{name}.example:{port}")
            assert head.startswith(f"HTTP/1.1 {status} ".encode()), name
            assert (await reader.read()).startswith(b"greenroom: ")
            writer.close()


async def http_upstream(reader: StreamReader, writer: StreamWriter) -> None:
    """Answers with the request's head and body as it saw them, then closes."""
    head = await reader.readuntil(b"\r\n\r\n")
    body = b""
    lower = head.lower()
    if b"content-length:" in lower:
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
    elif b"chunked" in lower:
        body = await reader.readuntil(b"0\r\n\r\n")
    seen = head + body
    writer.write(b"HTTP/1.1 200 Fine\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n")
    if head.startswith(b"HEAD"):
        writer.write(b"Content-Length: 99\r\n\r\n")
    elif b"/chunks" in head:
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        writer.write(f"{len(seen):x}\r\n".encode() + seen + b"\r\n0\r\nTrail: 1\r\n\r\n")
    elif b"/short" in head:
        writer.write(b"Content-Length: 1000\r\n\r\nshort")
    else:
        writer.write(b"\r\n" + seen)
    await writer.drain()


async def answer(reader: StreamReader) -> tuple[bytes, bytes]:
    """Head and raw body of one chunked or length-delimited answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    lower = head.lower()
    if b"content-length:" in lower:
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        return head, await reader.readexactly(length)
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return head, body


async def test_plain_requests_are_forwarded_one_by_one(tmp_path: Path) -> None:
    async with (
        upstream(http_upstream) as port,
        lab(tmp_path, [PROXY], [endpoint("api.example", port)]) as gate,
    ):
        gate.names = {"api.example": "127.0.0.1"}
        reader, writer = await gate.dial()
        for path in ("/one?a=b", "/chunks"):
            writer.write(
                f"GET http://api.example:{port}{path} HTTP/1.1\r\nHost: evil.example\r\n"
                "Proxy-Authorization: Basic x\r\nConnection: X-Mine\r\nX-Mine: 1\r\n"
                "Upgrade: h2c\r\nAccept: a/b\r\n\r\n".encode()
            )
            head, seen = await answer(reader)
            assert b"X-End" in head
            assert b"X-Hop" not in head
            assert seen.startswith(f"GET {path} HTTP/1.1\r\nHost: api.example:{port}\r\n".encode())
            assert b"Accept: a/b\r\n" in seen
            for gone in (b"evil", b"Proxy-", b"X-Mine", b"Upgrade"):
                assert gone not in seen
        for framing, body in (
            (b"Content-Length: 5\r\nExpect: 100-continue", b"12345"),
            (b"Transfer-Encoding: chunked", b"5\r\n12345\r\n0\r\n\r\n"),
        ):
            writer.write(b"POST http://api.example:%d/p HTTP/1.1\r\nHost: x\r\n" % port)
            writer.write(framing + b"\r\n\r\n")
            if b"Expect" in framing:
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(body)
            _, seen = await answer(reader)
            assert seen.endswith(body)
            assert b"Expect" not in seen
        writer.write(b"HEAD http://api.example:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % port)
        assert b"Content-Length: 99" in await reader.readuntil(b"\r\n\r\n")
        # The same kept connection, another name: decided anew.
        writer.write(b"GET http://other.example:%d/ HTTP/1.1\r\nHost: api.example\r\n\r\n" % port)
        head, body = await answer(reader)
        assert head.startswith(b"HTTP/1.1 403 ")
        assert b"other.example" in body
        assert await reader.read() == b""
        writer.close()
        assert [verdict for _, verdict in claimed(gate)] == ["allowed"] * 5 + ["denied"]


async def test_an_answer_that_breaks_off_is_not_passed_on_as_whole(tmp_path: Path) -> None:
    async with (
        upstream(http_upstream) as port,
        lab(tmp_path, [PROXY], [endpoint("api.example", port)]) as gate,
    ):
        gate.names = {"api.example": "127.0.0.1"}
        reader, writer = await gate.dial()
        writer.write(b"GET http://api.example:%d/short HTTP/1.1\r\nHost: x\r\n\r\n" % port)
        with pytest.raises(asyncio.IncompleteReadError):
            await answer(reader)
        writer.close()
        await until(lambda: len(gate.lines) == 1)
        assert gate.lines[0]["reason"] == "upstream broke off"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET https://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET ftp://a.example/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET http://u:p@a.example/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT a.example HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"CONNECT a.example:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://a.example/" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET http://a.example/ HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 90_000 + b"\r\n\r\n", 431),
        (b"GET http://a.example/ HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 300_000, 431),
        (b"POST http://a.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n", 403),
    ],
)
async def test_what_is_not_a_proper_request_is_answered_and_closed(
    tmp_path: Path, raw: bytes, status: int
) -> None:
    async with lab(tmp_path, [PROXY], []) as gate:
        reader, writer = await gate.dial()
        writer.write(raw)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        await reader.read()
        writer.close()


async def test_the_blind_http_listener_serves_its_own_name_only(tmp_path: Path) -> None:
    async with upstream(http_upstream) as port:
        blind = Listener(address="127.77.0.3", port=port, kind="http", host="api.example")
        async with lab(tmp_path, [blind], [endpoint("api.example", port)]) as gate:
            gate.names = {"api.example": "127.0.0.1"}
            reader, writer = await gate.dial()
            for target in ("/x", f"http://api.example:{port}/x"):
                writer.write(f"GET {target} HTTP/1.1\r\nHost: API.example:{port}\r\n\r\n".encode())
                _, seen = await answer(reader)
                assert seen.startswith(f"GET /x HTTP/1.1\r\nHost: api.example:{port}".encode())
            writer.write(b"GET /x HTTP/1.1\r\nHost: other.example\r\n\r\n")
            head, _ = await answer(reader)
            assert head.startswith(b"HTTP/1.1 403 ")
            writer.close()
            reader, writer = await gate.dial()
            writer.write(b"CONNECT api.example:1 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 405 ")
            writer.close()


async def test_a_swap_cuts_what_is_no_longer_allowed_and_keeps_the_rest(tmp_path: Path) -> None:
    async with upstream(echo) as port:
        one, two = endpoint("one.example", port), endpoint("two.example", port)
        async with lab(tmp_path, [PROXY], [one, two]) as gate:
            gate.names = {"one.example": "127.0.0.1", "two.example": "127.0.0.1"}
            assert gate.site is not None
            streams = {}
            for name in ("one", "two"):
                reader, writer, head = await gate.tunnel(f"{name}.example:{port}")
                assert head.startswith(b"HTTP/1.1 200")
                streams[name] = (reader, writer)
            gate.site.apply(gate.record([two]))
            with pytest.raises(ConnectionError):
                await streams["one"][0].readexactly(1)
            reader, writer = streams["two"]
            writer.write(b"still")
            assert await reader.readexactly(5) == b"still"
            _, closing, head = await gate.tunnel(f"one.example:{port}")
            assert head.startswith(b"HTTP/1.1 403")
            closing.close()
            # Phase ended: everything goes, and nothing new is answered.
            gate.site.apply(gate.record([two], Phase.ENDED))
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await gate.tunnel(f"two.example:{port}")
            # And back again, as a positive control of the same listener.
            gate.site.apply(gate.record([two]))
            _, closing, head = await gate.tunnel(f"two.example:{port}")
            assert head.startswith(b"HTTP/1.1 200")
            closing.close()
            ends = [line["reason"] for line in gate.lines if line["name"] == "one.example"]
            assert ends[0] == "cut: phase claimed"


async def test_a_swap_during_the_connect_cuts_it_too(tmp_path: Path) -> None:
    async with lab(tmp_path, [PROXY], [endpoint("slow.example", 9)]) as gate:
        asked = asyncio.Event()

        async def never(_host: str, _port: int) -> list[str]:
            asked.set()
            await asyncio.Event().wait()
            return []

        assert gate.site is not None
        object.__setattr__(gate.site.around.outside, "resolver", never)
        reader, writer = await gate.dial()
        writer.write(b"CONNECT slow.example:9 HTTP/1.1\r\nHost: x\r\n\r\n")
        await asked.wait()
        gate.site.apply(gate.record([]))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        await until(lambda: len(gate.lines) == 1)
        assert gate.lines[0]["reason"] == "cut: phase claimed"


async def test_one_container_has_a_limited_number_of_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_module, "MAX_CONNECTIONS", 3)
    async with (
        upstream(echo) as port,
        lab(tmp_path, [PROXY], [endpoint("api.example", port)]) as gate,
    ):
        gate.names = {"api.example": "127.0.0.1"}
        held = [(await gate.tunnel(f"api.example:{port}"))[1] for _ in range(3)]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await gate.tunnel(f"api.example:{port}")
        held.pop().close()
        assert gate.site is not None
        await until(lambda: gate.site is not None and gate.site.connections == 2)
        _, writer, head = await gate.tunnel(f"api.example:{port}")
        assert head.startswith(b"HTTP/1.1 200")
        for each in [*held, writer]:
            each.close()


async def test_a_loop_of_refusals_does_not_fill_the_log(tmp_path: Path) -> None:
    async with lab(tmp_path, [PROXY], []) as gate:
        for _ in range(320):
            _, writer, _ = await gate.tunnel("a.example:1")
            writer.close()
        assert gate.books is not None
        assert gate.books.pools["p1"]["denied"] == 320
        assert len(gate.lines) == 300


async def test_a_client_that_goes_away_ends_the_upstream_connection(tmp_path: Path) -> None:
    gone = asyncio.Event()

    async def hanging(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await reader.read()
        finally:
            gone.set()

    async with (
        upstream(hanging) as port,
        lab(tmp_path, [PROXY], [endpoint("api.example", port)]) as gate,
    ):
        gate.names = {"api.example": "127.0.0.1"}
        _, writer = await gate.dial()
        writer.write(b"GET http://api.example:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % port)
        await until(lambda: len(gate.resolved) == 1)
        writer.close()
        async with asyncio.timeout(20):
            await gone.wait()
