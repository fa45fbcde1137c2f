"""What every route holds: settings, the Temporal side, the host's side, metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Protocol

from fastapi import Depends
from starlette.requests import HTTPConnection

from greenroom.client import PoolClient
from greenroom.core.paths import StatePaths
from greenroom.core.records import Lease
from greenroom.core.slotfile import SlotRecord
from greenroom.metrics import Metrics
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


class HostSide(Protocol):
    """The lease files and containers of this host. Every method is quick and blocking."""

    def arm(self, lease: Lease, personal: PersonalParts) -> None:
        """Arm a granted container. Raises CorpseError, FencedError, UsageError, BackendError."""

    def slot_of_claim(self, claim_id: str) -> SlotRecord | None:
        """The record of the container that a claim holds or held here."""

    def slot(self, container: str) -> SlotRecord | None:
        """The record of one container."""

    def command(self, slot: SlotRecord, command: tuple[str, ...]) -> tuple[str, ...]:
        """``command`` with its holder's own environment around it."""

    def environment(self, slot: SlotRecord) -> dict[str, str]:
        """What every command in this container finds in its environment."""


@dataclass(frozen=True)
class ApiState:
    """One per process."""

    settings: Settings
    client: PoolClient
    host: HostSide
    metrics: Metrics

    @property
    def paths(self) -> StatePaths:
        return self.settings.paths

    @property
    def engine(self) -> Path:
        """The engine's Unix socket."""
        return Path(self.settings.docker_host.removeprefix("unix://"))


async def _of(connection: HTTPConnection) -> ApiState:
    state: ApiState = connection.app.state.greenroom
    return state


State = Annotated[ApiState, Depends(_of)]
