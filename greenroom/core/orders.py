"""What workflows order of activities, and what these answer: plain JSON, as all messages.

Not a border for others: only this version's workflows and activities speak it, and what stands
in histories.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from greenroom.core.config import PoolConfig
from greenroom.core.lifecycle import EndReason
from greenroom.core.pool_messages import SnapshotInput
from greenroom.core.records import Lease, Message, SnapshotRecord, StepRecord


class Placement(Message):
    """Where a container goes; every later activity of it runs on ``queue``."""

    host: str
    queue: str


class CreatedContainer(Message):
    docker_id: str
    sandbox_key: str


class LookInput(Message):
    pool: str
    config: PoolConfig


class BuilderRef(Message):
    """The container in which a snapshot is made; ``builder`` is a ULID."""

    pool: str
    builder: str
    fingerprint: str
    docker_id: str = ""


BuilderStepName = Literal["clone", "system", "install", "build"]


class BuilderStep(Message):
    """One line of a recipe: ``index`` counts within the lines of ``step``."""

    builder: BuilderRef
    step: BuilderStepName
    index: int = 0
    snapshot: SnapshotInput


class BuilderCommit(Message):
    builder: BuilderRef
    snapshot: SnapshotInput


class CommittedImage(Message):
    image_id: str
    size_bytes: int = 0


class VerifyInput(Message):
    snapshot: SnapshotInput
    image: CommittedImage


class VerifiedImage(Message):
    steps: tuple[StepRecord, ...] = ()


class TagInput(Message):
    snapshot: SnapshotInput
    image: CommittedImage
    steps: tuple[StepRecord, ...]
    started_at: float


class FoundSnapshot(Message):
    record: SnapshotRecord | None = None


class PlaceInput(Message):
    pool: str
    container: str


class SlotRef(Message):
    pool: str
    container: str


class ArmInput(Message):
    """``sealed`` and ``host_secrets`` are opened and fetched on the host, and nowhere else."""

    lease: Lease
    sealed: dict[str, str] = Field(default_factory=dict)
    host_secrets: tuple[str, ...] = ()


class ArmedLease(Message):
    armed: bool = True


class ExtendInput(Message):
    pool: str
    container: str
    claim_id: str
    token: int
    expires_at: float
    hold: bool = False


class WarnInput(Message):
    """Tell the holder that the lease ends soon, at ``expires_at``."""

    pool: str
    container: str
    token: int
    expires_at: float


class LastBeat(Message):
    """Seconds since the holder's last heartbeat; None: there was none yet."""

    age_s: float | None = None


class EndInput(Message):
    """The end of one container; ``claim_id`` is empty when it was never claimed."""

    pool: str
    container: str
    claim_id: str = ""
    token: int = 0
    reason: EndReason
    save: bool = True
