"""The API of a fake host, served for real on a Unix socket, and the CLI as a process against it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import uvicorn

from activities import host_secrets
from greenroom.api.app import make_app
from greenroom.api.host import LocalHost
from greenroom.api.listening import Server, listening, local_config, remote_config
from greenroom.api.state import ApiState, PersonalParts, WantedSecrets
from greenroom.client import PoolClient
from greenroom.core.access import Scope
from greenroom.core.errors import CorpseError, GreenroomError
from greenroom.core.names import container_workflow_id
from greenroom.core.paths import StatePaths
from greenroom.core.policy import Phase
from greenroom.core.records import Lease
from greenroom.core.slotfile import HostLease, SlotRecord
from greenroom.metrics import Metrics
from greenroom.sealing import PublicKey
from greenroom.services import tokens
from greenroom.services.listen import Listen, bind
from greenroom.services.settings import Decisions, Settings
from greenroom.services.tokens import Wanted
from tests.workflows.pools import Pool

ENGINE = "engine.sock"
"""The engine's socket in the run folder; a test that needs one listens there."""


@dataclass
class FakeHostSide:
    """``HostSide`` on dictionaries. ``dead`` are containers that are found not running."""

    paths: StatePaths
    slots: dict[str, SlotRecord] = field(default_factory=dict)
    personal: dict[str, PersonalParts] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    dying: int = 0
    """How many of the next containers to arm are dead."""
    trouble: GreenroomError | None = None
    """What arming raises."""
    gate_trouble: str = ""

    beats: list[str] = field(default_factory=list)
    unfit: GreenroomError | None = None
    """What checking personal parts raises."""

    def check_personal(self, pool: str, personal: PersonalParts) -> None:
        if self.unfit is not None:
            raise self.unfit

    def beat(self, container: str) -> None:
        self.beats.append(container)

    def arm(self, lease: Lease, personal: PersonalParts | None) -> None:
        if self.dying:
            self.dying -= 1
            self.dead.add(lease.container)
        if self.trouble is not None:
            raise self.trouble
        if lease.container in self.dead:
            raise CorpseError(f"container {lease.container} is not running")
        if personal is not None:
            self.personal[lease.claim_id] = personal
        self.slots[lease.container] = SlotRecord(
            container=lease.container,
            pool=lease.pool,
            workflow_id=container_workflow_id(lease.pool, lease.container),
            docker_id=lease.docker_id,
            phase=Phase.CLAIMED,
            lease=HostLease(
                claim_id=lease.claim_id,
                holder=lease.holder,
                token=lease.token,
                expires_at=lease.expires_at,
                policy_armed=True,
                personal_armed=True,
                heartbeat_s=lease.heartbeat_s,
            ),
        )

    def fetch(self, wanted: WantedSecrets, personal: PersonalParts) -> PersonalParts:
        """As the real host, from the state folder of the test."""
        return LocalHost.fetch(cast("LocalHost", self), wanted, personal)

    def public_key(self, pool: str) -> PublicKey:
        return host_secrets.public_key(self.paths, pool)

    @property
    def context(self) -> FakeHostSide:
        return self

    def slot_of_claim(self, claim_id: str) -> SlotRecord | None:
        for slot in self.slots.values():
            if slot.lease is not None and slot.lease.claim_id == claim_id:
                return slot
        return None

    def slot(self, container: str) -> SlotRecord | None:
        return self.slots.get(container)

    def command(self, slot: SlotRecord, command: tuple[str, ...]) -> tuple[str, ...]:
        return command

    def environment(self, slot: SlotRecord) -> dict[str, str]:
        return {}

    def connect_socket(self, slot: SlotRecord) -> socket.socket:
        return socket.socket()

    def check(self) -> dict[str, str]:
        return {"docker": "", "gate": self.gate_trouble}


@dataclass
class Done:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class ApiLab:
    """A served API, its fake host, and the pool behind it."""

    pool: Pool
    state: ApiState
    host: FakeHostSide

    async def cli(self, *line: str, stdin: bytes = b"") -> Done:
        """Run one command line as a process of its own."""
        process = await self.start(*line)
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    async def remote_cli(self, url: str, token: str, *line: str, stdin: bytes = b"") -> Done:
        """As ``cli``, over TCP and without a state folder."""
        environ = {**os.environ, "GREENROOM_URL": url, "GREENROOM_TOKEN": token}
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "greenroom"), *line,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env={**environ, "GREENROOM_STATE": "/nonexistent"},
        )  # fmt: skip
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    def token(self, name: str, scope: Scope, *pools: str, **more: float) -> str:
        """A new token; for this pool when none is named."""
        wanted = Wanted(name, pools or (self.pool.name,), scope, **more)
        return tokens.create(self.state.paths, wanted, time.time())[1]

    @contextlib.asynccontextmanager
    async def remote(self) -> AsyncIterator[str]:
        """The same API on a TCP port, behind its guard; its address."""
        listen = Listen("127.0.0.1", 0)
        with bind(listen) as bound:
            server = Server(remote_config(make_app(self.state), self.state, listen), lambda: None)
            serve = asyncio.create_task(server.serve(sockets=[bound]))
            try:
                yield f"http://127.0.0.1:{bound.getsockname()[1]}"
            finally:
                server.should_exit = True
                await serve

    async def start(self, *line: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "greenroom"),
            *line,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "GREENROOM_STATE": str(self.state.paths.root)},
        )


@contextlib.asynccontextmanager
async def serving(
    pool: Pool, root: Path, messages: PoolClient | None = None
) -> AsyncIterator[ApiLab]:
    """Serve the API for ``pool`` from a state folder of the test's own."""
    paths = StatePaths(root)
    paths.run.mkdir(parents=True)
    host = FakeHostSide(paths)
    decided = Decisions(docker_host=f"unix://{paths.run / ENGINE}")
    settings = Settings(paths, "0" * 16, "fake", decided)
    state = ApiState(settings, messages or PoolClient(pool.client), host, Metrics())
    server = uvicorn.Server(local_config(make_app(state)))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]  # pytest's own
    with listening(paths.api_socket) as listener:
        serve = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield ApiLab(pool, state, host)
        finally:
            server.should_exit = True
            await serve
