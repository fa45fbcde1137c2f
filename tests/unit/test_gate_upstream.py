"""The way out through the host's own proxy, and the control socket without containers."""

import asyncio
from asyncio import StreamReader, StreamWriter
from pathlib import Path

import pytest
from gate_lab import echo, upstream

from greenroom.core.paths import StatePaths
from greenroom.core.policy import Endpoint, Phase
from greenroom.core.slotfile import SlotRecord
from greenroom.gate.connect import Outside, UpstreamError, UpstreamProxy
from greenroom.gate.control import GateClient, GateRefused, GateUnavailable
from greenroom.gate.server import ControlServer, Gate


async def test_the_hosts_proxy_is_asked_for_the_name(tmp_path: Path) -> None:
    heads: list[bytes] = []

    async def proxy(reader: StreamReader, writer: StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        if b"refused.example" in heads[-1]:
            writer.write(b"HTTP/1.1 407 No\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await echo(reader, writer)

    async with upstream(proxy) as port, upstream(echo) as direct_port:
        outside = Outside(UpstreamProxy("127.0.0.1", port, "Basic abc", "local.example"))
        reader, writer = await outside.connect(Endpoint(host="api.example"), 443)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()
        assert heads[0].startswith(b"CONNECT api.example:443 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic abc\r\n" in heads[0]
        with pytest.raises(UpstreamError, match="407"):
            await outside.connect(Endpoint(host="refused.example"), 443)

        async def resolver(_host: str, _port: int) -> list[str]:
            return ["127.0.0.1"]

        around = Outside(outside.proxy, resolver)
        named = Endpoint(host="db.local.example", named=True)
        _, writer = await around.connect(named, direct_port)
        writer.close()
        assert len(heads) == 2
    with pytest.raises(UpstreamError):
        await outside.connect(Endpoint(host="api.example"), 443)


async def test_the_control_socket_answers_everything(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    paths.run.mkdir()
    paths.slots.mkdir()
    record = SlotRecord(container="c1", pool="p", phase=Phase.CLAIMED)
    paths.slot("c1").write_text(record.model_dump_json())
    paths.slot("broken").write_text("{")
    (paths.slots / ".c2.json").write_text("{")
    gate = Gate(paths, Outside())
    assert not await gate.reattach()  # nobody opens sockets here
    server = await asyncio.start_unix_server(ControlServer(gate).serve, str(paths.gate_socket))
    client = GateClient(paths)

    async def reason(op: str, container: str) -> str:
        with pytest.raises(GateRefused) as refused:
            await asyncio.to_thread(getattr(client, op), container)
        return refused.value.reason

    async with server:
        assert await asyncio.to_thread(client.list) == {
            "c1": {"error": "opener_unavailable"},
            "broken": {"error": "bad_record"},
        }
        assert await reason("attach", "c1") == "opener_unavailable"
        assert await reason("attach", "none") == "no_record"
        assert await reason("attach", "../c1") == "bad_request"
        assert await reason("apply", "c1") == "not_attached"
        await asyncio.to_thread(client.detach, "c1")
        assert set(await asyncio.to_thread(client.list)) == {"broken"}
        assert await asyncio.to_thread(client.stats) == {}
        reader, writer = await asyncio.open_unix_connection(str(paths.gate_socket))
        for line in (b"nonsense\n", b"[]\n", b"{}\n", b'{"op":"fly"}\n'):
            writer.write(line)
            assert b'"bad_request"' in await reader.readline()
        writer.close()
        await writer.wait_closed()
    with pytest.raises(GateUnavailable):
        await asyncio.to_thread(client.list)
