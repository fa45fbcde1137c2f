"""Which API the client speaks to, when it asks again, and what failures become."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from greenroom.client import AsyncGreenroom
from greenroom.client import transport as transport_module
from greenroom.client.address import Address, find_address
from greenroom.client.transport import Request, Transport
from greenroom.core.errors import (
    BackendError,
    FencedError,
    GreenroomError,
    NotFoundError,
    UsageError,
)
from greenroom.core.paths import StatePaths

TOLD = {"error": "fenced", "message": "old", "details": {"token": 3}}


def test_an_address_comes_from_the_arguments_else_the_environment(tmp_path: Path) -> None:
    environ = {"GREENROOM_URL": "https://h:8443/", "GREENROOM_TOKEN": "t"}
    assert find_address("http://other:1", "x", environ) == Address("http://other:1", token="x")
    far = find_address(environ=environ)
    assert (far.url, far.websocket_url) == ("https://h:8443", "wss://h:8443")
    assert far.headers == {"Authorization": "Bearer t"}
    assert "'t'" not in repr(far)
    near = find_address(environ={"GREENROOM_STATE": str(tmp_path), "GREENROOM_TOKEN": "unused"})
    assert near == Address("http://localhost", StatePaths(tmp_path))
    assert near.headers == {}


@pytest.mark.parametrize("url", ["h:8443", "unix:///x", "https://", "https://h/?a=b"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="https://HOST:PORT"):
        find_address(url, environ={})
    with pytest.raises(UsageError, match="GREENROOM_TOKEN"):
        find_address("https://h", "two\nlines", environ={})


def answering(*answers: Any) -> tuple[Transport, list[httpx.Request]]:
    """A transport whose requests get these answers, in order."""
    asked: list[httpx.Request] = []
    script = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, httpx.Response) else found(request)

    transport = Transport(Address("http://h"), verify=True)
    transport._client = httpx.AsyncClient(
        base_url="http://h", transport=httpx.MockTransport(answer)
    )
    return transport, asked


def gone(status: int) -> httpx.Response:
    return httpx.Response(status, html="<h1>away</h1>")


@pytest.mark.parametrize(
    "passing",
    [
        lambda: httpx.ConnectError("refused"),
        lambda: httpx.ReadError("reset"),
        lambda: httpx.RemoteProtocolError("it hung up"),
        lambda: gone(502),
        lambda: gone(503),
    ],
    ids=["refused", "reset", "hung-up", "proxy-502", "proxy-503"],
)
async def test_what_passes_is_asked_again_unchanged(passing: Callable[[], Any]) -> None:
    transport, asked = answering(passing(), passing(), httpx.Response(200, json={"a": 1}))
    assert await transport.ask(Request("POST", "/v1/x", {"id": "c"})) == {"a": 1}
    assert [request.content for request in asked] == [b'{"id":"c"}'] * 3
    transport, asked = answering(passing())
    with pytest.raises(BackendError):
        await transport.ask(Request("POST", "/v1/x", again_s=0.0))
    assert len(asked) == 1


async def test_an_answer_that_was_long_in_coming_is_asked_for_again_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(transport_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def broken_after_an_hour(request: httpx.Request) -> httpx.Response:
        now[0] += 3600
        raise httpx.ReadError("reset")

    transport, asked = answering(broken_after_an_hour, httpx.Response(200, json=[]))
    assert await transport.ask(Request("GET", "/v1/x")) == []
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx.Response(404, json=TOLD), FencedError),
        (httpx.Response(503, json={**TOLD, "error": "no_such_code"}), GreenroomError),
        (gone(500), BackendError),
        (httpx.ReadTimeout("slow"), BackendError),
    ],
)
async def test_what_does_not_pass_is_told_at_once(answer: Any, error: type[Exception]) -> None:
    transport, asked = answering(answer)
    with pytest.raises(error) as caught:
        await transport.ask(Request("GET", "/v1/x"))
    assert len(asked) == 1
    if error is FencedError:
        assert isinstance(caught.value, NotFoundError)
        assert caught.value.details == {"token": 3}


async def test_without_an_install_it_says_so_at_once_and_a_restart_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_STATE", str(tmp_path))
    (tmp_path / "run").mkdir()
    paths = StatePaths(tmp_path)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
        writer.close()

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with AsyncGreenroom() as room:
        with pytest.raises(BackendError, match="greenroom up"):
            await room.claims()
        async with await asyncio.start_unix_server(hang_up, str(paths.supervisor_socket)):
            asking = asyncio.create_task(room.claims())
            await asyncio.wait({asking}, timeout=0.1)
            assert not asking.done(), "its supervisor runs: it will be back"
            async with await asyncio.start_unix_server(answer, str(paths.api_socket)):
                assert await asking == []
