"""What every route holds: settings, the Temporal side, the host's side, metrics."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Protocol

from fastapi import Depends
from starlette.requests import HTTPConnection

from greenroom.api.errors import GRANT, TEMPLATE
from greenroom.client import PoolClient
from greenroom.core.access import TRUSTED, Grant
from greenroom.core.errors import ForbiddenError
from greenroom.core.paths import StatePaths
from greenroom.core.records import Lease
from greenroom.core.slotfile import SlotRecord
from greenroom.metrics import Metrics
from greenroom.sealing import PublicKey
from greenroom.services.settings import Settings


@dataclass(frozen=True)
class PersonalParts:
    """What a claimed container gets of its holder: environment, secrets, files, git identity.

    ``secrets`` are files by name; nothing of this ever reaches Temporal.
    """

    env: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    git_name: str = ""
    git_email: str = ""


@dataclass(frozen=True)
class WantedSecrets:
    """What a claim brings sealed, and which secrets of the host it names."""

    pool: str
    claim_id: str
    sealed: dict[str, str] = field(default_factory=dict)
    host_secrets: tuple[str, ...] = ()


class HostSide(Protocol):
    """The lease files and containers of this host. Every method is quick and blocking."""

    def arm(self, lease: Lease, personal: PersonalParts | None) -> None:
        """Arm a granted container; None: with nothing personal, as for a transferred lease.

        Raises CorpseError, FencedError, UsageError, BackendError.
        """

    def check_personal(self, pool: str, personal: PersonalParts) -> None:
        """Refuse what ``arm`` would refuse, before there is a container. Raises UsageError."""

    def beat(self, container: str) -> None:
        """Note that a container's holder is there."""

    def fetch(self, wanted: WantedSecrets, personal: PersonalParts) -> PersonalParts:
        """``personal`` with what was sealed, and the host's own secrets.

        Raises SecretError, UsageError, BackendError.
        """

    def public_key(self, pool: str) -> PublicKey:
        """What values for a pool are sealed with; made on first use."""

    def slot_of_claim(self, claim_id: str) -> SlotRecord | None:
        """The record of the container that a claim holds or held here."""

    def slot(self, container: str) -> SlotRecord | None:
        """The record of one container."""

    def command(self, slot: SlotRecord, command: tuple[str, ...]) -> tuple[str, ...]:
        """``command`` with its holder's own environment around it."""

    def environment(self, slot: SlotRecord) -> dict[str, str]:
        """What every command in this container finds in its environment."""

    def connect_socket(self, slot: SlotRecord) -> socket.socket:
        """A TCP socket of this container's network, not connected yet. Raises BackendError."""

    def check(self) -> dict[str, str]:
        """What a claim needs of this host: by name, empty or what is wrong with it."""


@dataclass(frozen=True)
class ApiState:
    """One per process. ``grant`` is what the present caller may see; see ``seen_by``."""

    settings: Settings
    client: PoolClient
    host: HostSide
    metrics: Metrics
    grant: Grant = TRUSTED

    @property
    def paths(self) -> StatePaths:
        return self.settings.paths

    @property
    def engine(self) -> Path:
        """The engine's Unix socket."""
        return Path(self.settings.docker_host.removeprefix("unix://"))

    def seen_by(self, grant: Grant) -> ApiState:
        """The same for one caller: whatever looks for pools and claims finds only theirs."""
        return replace(self, grant=grant)


async def _of(connection: HTTPConnection) -> ApiState:
    state: ApiState = connection.app.state.greenroom
    grant = connection.scope.get(GRANT)
    if grant is None:
        return state
    if connection.scope["route"].path != connection.scope[TEMPLATE]:
        # The guard and the application must never read one path in two ways.
        raise ForbiddenError("this path is ambiguous")
    return state.seen_by(grant)


State = Annotated[ApiState, Depends(_of)]
