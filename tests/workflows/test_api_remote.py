"""The API over TCP: tokens, scopes, pools, limits; and the command line against it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from greenroom.api import guard, listening, server
from greenroom.api.access import HUGE, LARGE, SMALL
from greenroom.api.app import make_app
from greenroom.core.access import Scope
from greenroom.services import tokens
from greenroom.services.listen import Listen, bind
from tests.workflows.api_lab import ApiLab, serving
from tests.workflows.pools import Pool


@dataclass
class Remote:
    """The lab with its API on a TCP port, and who talks to it."""

    lab: ApiLab
    url: str
    http: httpx.AsyncClient

    async def ask(self, method: str, path: str, token: str = "", **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.http.request(method, path, headers=headers, **more)

    async def refused(
        self, method: str, path: str, token: str, status: int, **more: Any
    ) -> dict[str, Any]:
        answer = await self.ask(method, path, token, **more)
        assert answer.status_code == status, answer.text
        told: dict[str, Any] = answer.json()
        assert set(told) == {"error", "message", "details", "request_id"}
        assert answer.headers["x-request-id"] == told["request_id"] != ""
        return told

    async def socket_status(self, path: str, token: str) -> int:
        """The status that opening a WebSocket is answered with."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        where = self.url.replace("http://", "ws://") + path
        try:
            async with connect(where, additional_headers=headers, proxy=None):
                return 101
        except InvalidStatus as refusal:
            answer = refusal.response
        assert json.loads(bytes(answer.body or b""))["error"]
        return answer.status_code


@pytest_asyncio.fixture(loop_scope="session")
async def remote(pool: Pool, tmp_path: Path) -> AsyncIterator[Remote]:
    async with (
        serving(pool, tmp_path) as lab,
        lab.remote() as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as http,
    ):
        await pool.configure()
        await pool.until_ready(2)
        yield Remote(lab, url, http)


async def test_without_a_good_token_there_is_only_health(remote: Remote) -> None:
    lab = remote.lab
    expired = lab.token("old", Scope.ADMIN, expires_at=time.time() - 1)
    good = lab.token("good", Scope.READ)
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert (await remote.ask("GET", path)).status_code == 200
    for wrong in ("", "x", good[:-1] + ("0" if good[-1] != "0" else "1"), f"{good}0", expired):
        await remote.refused("GET", "/v1/pools", wrong, 401)
    assert (await remote.ask("GET", "/v1/pools", good)).status_code == 200
    answer = await remote.ask("GET", "/no/such/thing")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert (await remote.refused("GET", "/no/such", good, 404))["error"] == "not_found"
    wrong_method = await remote.ask("PATCH", "/v1/pools", good)
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "GET")
    assert await remote.socket_status("/v1/claims/c/exec", "") == 401


async def test_a_token_does_what_its_scope_says_in_its_pools(remote: Remote) -> None:
    lab, name = remote.lab, remote.lab.pool.name
    read = lab.token("read", Scope.READ)
    claim = lab.token("claim", Scope.CLAIM)
    admin = lab.token("admin", Scope.ADMIN)
    stranger = lab.token("stranger", Scope.ADMIN, "elsewhere")
    everywhere = lab.token("everywhere", Scope.READ, "*")

    await remote.refused("POST", f"/v1/pools/{name}/claims", read, 403, json={})
    await remote.refused("POST", f"/v1/pools/{name}/claims", stranger, 403, json={})
    granted = await remote.ask("POST", f"/v1/pools/{name}/claims", claim, json={"claim_id": "s1"})
    assert granted.status_code == 200, granted.text

    shown = (await remote.ask("GET", "/v1/claims/s1", read)).json()
    assert shown["claim_id"] == "s1"
    assert shown["token"] is None
    assert (await remote.ask("GET", "/v1/claims/s1", claim)).json()["token"] == 1
    assert [c["claim_id"] for c in (await remote.ask("GET", "/v1/claims", read)).json()] == ["s1"]

    # What is somebody else's is not there.
    assert (await remote.ask("GET", "/v1/claims", stranger)).json() == []
    assert (await remote.ask("GET", "/v1/pools", stranger)).json() == []
    unknown = await remote.refused("GET", "/v1/claims/nobody", stranger, 404)
    foreign = await remote.refused("GET", "/v1/claims/s1", stranger, 404)
    assert foreign["message"] == unknown["message"].replace("nobody", "s1")
    for method, path in (("DELETE", "/v1/claims/s1"), ("DELETE", f"/v1/claims/s1?pool={name}"),
                         ("POST", "/v1/claims/s1/extend"), ("GET", "/v1/claims/s1/files?path=x"),
                         ("PUT", "/v1/claims/s1/files?path=x")):  # fmt: skip
        await remote.refused(method, path, stranger, 404)
        await remote.refused(method, path, read, 403)
    for path in ("/v1/claims/s1/exec", "/v1/claims/s1/forward?port=80"):
        assert await remote.socket_status(path, stranger) == 404
        assert await remote.socket_status(path, read) == 403

    await remote.refused("GET", f"/v1/pools/{name}", stranger, 403)
    await remote.refused("POST", f"/v1/pools/{name}/pause", claim, 403)
    assert (await remote.ask("POST", f"/v1/pools/{name}/pause", admin)).status_code == 200
    await remote.refused("GET", "/metrics", admin, 403)
    assert name in (await remote.ask("GET", "/metrics", everywhere)).text
    ended = await remote.ask("DELETE", "/v1/claims/s1", claim)
    assert ended.status_code == 200, ended.text


async def test_claims_that_wait_or_ended_are_shown_to_their_pool_and_to_no_other(
    remote: Remote,
) -> None:
    lab, pool = remote.lab, remote.lab.pool
    pool.host.gate("clone_in")  # no more containers than there are
    own, other = lab.token("own", Scope.READ), lab.token("other", Scope.READ, "elsewhere")
    first = await pool.grant("first")
    await pool.until_armed(first)
    await pool.grant("second")
    await pool.claim("third", wait_s=60)
    await pool.release(first)
    await pool.container(first.container).result()
    for claim, state in (("third", "queued"), ("first", "ended")):
        while True:  # what ended is found once Temporal's list has it
            answer = await remote.ask("GET", f"/v1/claims/{claim}", own)
            if answer.status_code == 200 and answer.json()["state"] == state:
                break
            await asyncio.sleep(0.05)
        await remote.refused("GET", f"/v1/claims/{claim}", other, 404)


async def test_saved_work_and_logs_of_other_pools_are_not_there(remote: Remote) -> None:
    lab, name = remote.lab, remote.lab.pool.name
    for pool in (name, "elsewhere"):
        folder = lab.state.paths.saved_claim(pool, "w1")
        folder.mkdir(parents=True)
        (folder / "saved.json").write_text('{"state": "clean"}')
        log = lab.state.paths.build_log(pool, "0" * 20)
        log.parent.mkdir(parents=True)
        log.write_text("built\n")
    mine = lab.token("mine", Scope.READ)
    assert [w["pool"] for w in (await remote.ask("GET", "/v1/saved", mine)).json()] == [name]
    assert (await remote.ask("GET", f"/v1/logs/{name}", mine)).status_code == 200
    await remote.refused("GET", "/v1/logs/elsewhere", mine, 404)


async def test_revoking_ends_what_runs_and_what_comes(remote: Remote) -> None:
    lab, name = remote.lab, remote.lab.pool.name
    token = lab.token("soon-gone", Scope.CLAIM)
    await lab.pool.claim("r1")
    where = remote.url.replace("http://", "ws://") + "/v1/claims/r1/exec"
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(where, additional_headers=headers, proxy=None) as socket:
        tokens.revoke(lab.state.paths, "soon-gone")
        await remote.refused("GET", f"/v1/pools/{name}", token, 401)
        assert await remote.socket_status("/v1/claims/r1/exec", token) == 401
        await socket.wait_closed()
        assert socket.close_code == 1008


async def test_more_than_the_rate_is_told_when_to_come_back(remote: Remote) -> None:
    slow = remote.lab.token("slow", Scope.READ, rate=0.5)
    assert (await remote.ask("GET", "/v1/pools", slow)).status_code == 200
    told = await remote.refused("GET", "/v1/pools", slow, 429)
    again = await remote.ask("GET", "/v1/pools", slow)
    assert 1 <= int(again.headers["retry-after"]) <= 2
    assert told["details"]["retry_after_s"] <= 2
    assert (await remote.ask("GET", "/v1/pools", remote.lab.token("b", Scope.READ))).is_success


async def chunks(size: int) -> AsyncIterator[bytes]:
    for _ in range(size // 65536 + 1):
        yield b" " * 65536


async def test_bodies_are_bounded_chunked_ones_too(remote: Remote) -> None:
    token, name = remote.lab.token("t", Scope.ADMIN), remote.lab.pool.name
    claims, extend = f"/v1/pools/{name}/claims", f"/v1/pools/{name}/resize"
    for path, limit in ((extend, SMALL), (claims, LARGE)):
        declared = await remote.refused("POST", path, token, 413, content=b" " * (limit + 1))
        assert declared["details"]["limit"] == limit
        await remote.refused("POST", path, token, 413, content=chunks(limit))


async def test_an_archive_that_is_too_large_is_refused_before_it_comes(remote: Remote) -> None:
    token = remote.lab.token("t", Scope.CLAIM)
    claimed = await remote.ask(
        "POST", f"/v1/pools/{remote.lab.pool.name}/claims", token, json={"claim_id": "h1"}
    )
    assert claimed.status_code == 200, claimed.text
    head = (
        "PUT /v1/claims/h1/files?path=x HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: {HUGE + 1}\r\n\r\n"
    )
    answer = await raw(remote, head.encode(), then=None)
    assert answer.startswith(b"HTTP/1.1 413"), answer


async def raw(remote: Remote, text: bytes, then: bytes | None = b"") -> bytes:
    """What the server says to these bytes until it closes; ``then`` goes out after an answer.

    None: only that answer.
    """
    host, port = remote.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(text)
    try:
        first = b"" if then == b"" else await reader.readuntil(b"}")
        if then is None:
            return first
        writer.write(then)
        return first + await reader.read()
    finally:
        writer.close()


async def test_slow_heads_are_ended(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEAD_S", 0.05)
    assert await raw(remote, b"") == b""
    assert await raw(remote, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-") == b""
    first_fast = await raw(remote, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /he")
    assert first_fast.count(b"HTTP/1.1") == 1


async def test_a_body_that_stops_coming_is_refused(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, name = remote.lab.token("t", Scope.ADMIN), remote.lab.pool.name
    monkeypatch.setattr(guard, "BODY_S", 0.05)
    head = (
        f"POST /v1/pools/{name}/claims HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    )
    answer = await raw(remote, head.encode(), then=None)
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert b'"error":"slow_request"' in answer


async def test_a_callers_request_id_is_used_when_it_is_plain(remote: Remote) -> None:
    for sent, kept in (("run-17.a", True), ("a b", False), ("x" * 65, False), ("é", False)):
        headers = {"X-Request-Id": sent.encode()}
        answer = await remote.http.get("/v1/pools", headers=headers)
        assert (answer.headers["x-request-id"] == sent) is kept
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_readiness_names_what_does_not_answer(remote: Remote) -> None:
    remote.lab.host.gate_trouble = "the gate does not answer"
    answer = await remote.ask("GET", "/readyz")
    assert answer.status_code == 503
    items = answer.json()["items"]
    assert {name: item["ok"] for name, item in items.items()} == {
        "temporal": True, "docker": True, "gate": False,
    }  # fmt: skip
    assert (await remote.ask("GET", "/healthz")).json() == {"ok": True}


async def test_a_port_of_the_container_is_passed_through(remote: Remote) -> None:
    lab = remote.lab
    token = lab.token("t", Scope.CLAIM)
    claimed = await lab.remote_cli(remote.url, token, "claim", lab.pool.name, "--id", "f1")
    assert claimed.code == 0, claimed.err

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        text = await reader.read()  # to the end of the caller's direction
        writer.write(text.upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = f"/v1/claims/f1/forward?port={port}"
    where = remote.url.replace("http://", "ws://") + path
    headers = {"Authorization": f"Bearer {token}"}
    async with server, connect(where, additional_headers=headers, proxy=None) as socket:
        await socket.send(b"a" * 300_000)
        await socket.send(b"bc")
        await socket.send("eof")
        received = b""
        while isinstance(piece := await socket.recv(), bytes):
            received += piece
        assert received == b"A" * 300_000 + b"BC"
        assert piece == "eof"
    assert await remote.socket_status(path, token) == 404  # nothing listens there any more
    assert await remote.socket_status("/v1/claims/f1/forward?port=0", token) == 400


async def test_the_command_line_works_from_afar(remote: Remote) -> None:
    lab, url = remote.lab, remote.url
    token, name = lab.token("cli", Scope.CLAIM), lab.pool.name

    async def cli(*line: str) -> Any:
        return await lab.remote_cli(url, token, *line)

    claimed = await cli("claim", name, "--id", "a1", "--json")
    assert claimed.code == 0, claimed.err
    assert [c["claim_id"] for c in (await cli("claims", "--json")).json] == ["a1"]
    assert (await cli("extend", "a1", "--ttl", "2h", "--json")).code == 0
    kept = await cli("release", "a1", "--save", "x")
    assert kept.code == 2
    assert (await cli("release", "a1", "--json")).code == 0
    forbidden = await cli("pause", name, "--json")
    assert (forbidden.code, forbidden.json["error"]) == (2, "forbidden")
    assert (await cli("up")).code == 2
    wrong = await lab.remote_cli(url, "", "claims")
    assert wrong.code == 2
    assert "no token" in wrong.err
    run = await lab.remote_cli(url, lab.token("r", Scope.READ), "exec", "a1", "--", "true")
    assert run.code == 120
    socket = f"unix://{lab.state.paths.api_socket}"
    assert (await lab.remote_cli(socket, "", "claims", "--json")).code == 0
    away = await lab.remote_cli("http://127.0.0.1:1", token, "exec", "a1", "--", "true")
    assert away.code == 123


async def test_a_port_that_is_taken_is_waited_for(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_BIND_PAUSE_S", 0.01)
    state = remote.lab.state
    with bind(Listen("127.0.0.1", 0)) as taken:
        taken.listen()
        listen = Listen("127.0.0.1", taken.getsockname()[1])
        one = server.Remote(make_app(state), state, listen)
        serving = asyncio.create_task(one.serve())
        await one.tried.wait()
        assert one._server is None
    await remote.lab.pool.until_true(lambda: one._server is not None and one._server.started)
    assert (await remote.http.get(f"{listen.url}/healthz")).status_code == 200
    one.stop()
    await serving
