"""What strangers may not do: outlast their token, name another pool's claim, steer a terminal."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from websockets.asyncio.client import connect

from activities.engine import Exec, Output
from activities.jobs import Job, _exit_code
from greenroom.api import guard as guarding
from greenroom.api import listening
from greenroom.api.leases import find_lease
from greenroom.cli.output import plain
from greenroom.core.access import TRUSTED
from greenroom.core.access import Scope as Right
from greenroom.core.errors import EngineError, NotFoundError
from greenroom.core.paths import StatePaths
from greenroom.core.slotfile import HostLease, SlotRecord
from greenroom.services import tokens


async def test_a_revoked_token_ends_a_socket_that_reads_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a half-closed forward, or a command whose input is full."""
    paths = StatePaths(tmp_path)
    _, token = tokens.create(paths, tokens.Wanted("ci", ("*",), Right.CLAIM), time.time())
    ended = asyncio.Event()
    sent: list[Message] = []

    async def app(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        tokens.revoke(paths, "ci")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def found(*_: object) -> None: ...

    monkeypatch.setattr(guarding, "find_lease", found)
    monkeypatch.setattr(guarding, "WATCH_S", 0.01)
    state: Any = SimpleNamespace(paths=paths, seen_by=lambda _: None)
    scope = {
        "type": "websocket",
        "path": "/v1/claims/c1/forward",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
    }
    async with asyncio.timeout(10):
        await guarding.Guard(app, state)(scope, receive, send)
    assert ended.is_set()
    assert sent[-1]["code"] == 1008


async def test_a_socket_outlives_the_time_for_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "HEAD_S", 0.2)

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await asyncio.sleep(2 * listening.HEAD_S)
        await send({"type": "websocket.send", "text": "there"})
        await receive()

    config = uvicorn.Config(
        app,
        port=0,
        http=listening.BoundedHttp,
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
    )
    started = asyncio.Event()
    server = listening.Server(config, started.set)
    serving = asyncio.create_task(server.serve())
    await started.wait()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with connect(f"ws://127.0.0.1:{port}", proxy=None) as socket:
            assert await socket.recv() == "there"
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize("text", ["", "²", "9" * 60, "-1", "1 2"])
def test_an_exit_code_that_the_container_made_up_is_refused(text: str) -> None:
    engine: Any = SimpleNamespace(capture=lambda *_: Output(0, text, ""))
    with pytest.raises(EngineError, match="exit code"):
        _exit_code(engine, Job("task-1", Path(), Exec("c", ("true",))))


async def test_a_claim_of_one_pool_is_not_found_under_another(tmp_path: Path) -> None:
    """Both pools may have one of that id; ending or extending must hit the one that is named."""
    lease = HostLease(claim_id="c1", token=1, expires_at=time.time() + 60)
    slot = SlotRecord(container="C", pool="other", lease=lease)

    async def nowhere(*_: object) -> None: ...

    state: Any = SimpleNamespace(
        grant=TRUSTED,
        paths=StatePaths(tmp_path),
        host=SimpleNamespace(slot_of_claim=lambda _: slot),
        client=SimpleNamespace(lease=nowhere),
    )
    assert (await find_lease(state, "c1", pool="other")).container == "C"
    with pytest.raises(NotFoundError):
        await find_lease(state, "c1", pool="mine")


def test_a_containers_text_does_not_steer_a_terminal() -> None:
    assert plain("M\tä\x1b]0;x\x07\r\x9b2J") == "M\tä\\x1b]0;x\\x07\\r\\x9b2J"
