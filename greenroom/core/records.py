"""What is written down once and shown everywhere: a commit, a snapshot, a lease, a failure.

Times are epoch seconds, durations seconds. Plain JSON: unknown fields are ignored and new ones
have defaults, so that one version reads what another wrote.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Message(BaseModel):
    """Base of all messages."""

    # No NaN or infinity: JSON has none, so a ledger that took one could never be read again.
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Done(Message):
    """The answer of what has nothing to say but that it is done."""


MissReason = Literal[
    "pool_empty",
    "stale",
    "shape_mismatch",
    "paused",
    "draining",
    "breaker_open",
    "quota",
    "host_lost",
]


class Source(Message):
    """A commit of the pool's repository, and what its preparation will be named.

    ``mirror`` is the key of the host's mirror; ``why`` says how the recipe's lines were chosen.
    """

    commit: str
    ref: str
    mirror: str
    dependencies: str
    fingerprint: str
    install: tuple[str, ...] = ()
    sync: tuple[str, ...] = ()
    dependency_files: dict[str, str] = Field(default_factory=dict)
    why: str = ""


class StepRecord(Message):
    """One step of preparing: what ran, how long, and how it ended."""

    name: str
    line: str = ""
    seconds: float = 0.0
    reused: bool = False


class SnapshotRecord(Message):
    """A verified image that slots start from."""

    source: Source
    image_id: str
    image_tag: str
    built_at: float
    seconds: float
    size_bytes: int = 0
    steps: tuple[StepRecord, ...] = ()


class Failure(Message):
    """Why a preparation failed: for ``status``, ``logs`` and the Temporal UI."""

    step: str
    reason: str
    tail: str = ""
    log: str = ""
    at: float = 0.0
    permanent: bool = True


class SavedWork(Message):
    """What was kept of an ended claim. ``state``: ``clean``, ``saved``, ``discarded``, ``unsaved``.

    ``path`` is a folder on the host; ``files`` the names in it; ``unsaved`` keeps the container.
    """

    state: Literal["clean", "saved", "discarded", "unsaved"]
    path: str = ""
    files: tuple[str, ...] = ()
    commits: int = 0
    changed: int = 0
    detail: str = ""


class Lease(Message):
    """A holder's right to one container until ``expires_at``, fenced by ``token``.

    ``heartbeat_s`` 0: none is demanded; ``held``: kept for debugging, none is demanded either.
    ``group`` is the claim that this one is a member of, with ``group_size`` members granted.
    """

    claim_id: str
    pool: str
    holder: str = ""
    container: str
    container_workflow: str
    host: str
    docker_id: str = ""
    commit: str
    fingerprint: str
    snapshot_age_s: float
    warm: bool
    miss_reason: MissReason | None = None
    waited_s: float
    granted_at: float
    expires_at: float
    token: int
    armed: bool = False
    labels: dict[str, str] = Field(default_factory=dict)
    heartbeat_s: float = 0.0
    held: bool = False
    group: str = ""
    group_size: int = 0
