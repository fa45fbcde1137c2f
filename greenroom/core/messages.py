"""What workflows, activities and clients say to each other: plain JSON, one model per message.

Times are epoch seconds, durations seconds. Unknown fields are ignored and new ones have
defaults, so that one version reads the next one's messages.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from greenroom.core.config import PoolConfig
from greenroom.core.lifecycle import EndReason, State


class Message(BaseModel):
    """Base of all messages."""

    # No NaN or infinity: JSON has none, so a ledger that took one could never be read again.
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


# ── snapshots ────────────────────────────────────────────────────────────────────────────────


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


class SnapshotInput(Message):
    pool: str
    config: PoolConfig
    source: Source
    base_image: str = ""


class SnapshotNews(Message):
    """A Snapshot workflow's result, sent to its keeper."""

    fingerprint: str
    record: SnapshotRecord | None = None
    failure: Failure | None = None


# ── containers ───────────────────────────────────────────────────────────────────────────────


class ContainerInput(Message):
    pool: str
    container: str
    config: PoolConfig
    snapshot: SnapshotRecord


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


NewsKind = Literal[
    "created", "cloned", "installed", "extended", "ending", "retired", "corpse", "alive"
]


class ContainerNews(Message):
    """One step of a container, told to the keeper; older ``seq`` are ignored.

    ``corpse`` asks for another container for the same claim; ``alive`` answers ``ask``.
    """

    container: str
    seq: int
    kind: NewsKind
    at: float
    host: str = ""
    docker_id: str = ""
    expires_at: float = 0.0
    reason: EndReason | None = None
    failure: Failure | None = None
    saved: SavedWork | None = None


class Claimed(Message):
    """Signal ``claimed`` to a container: this lease is yours now."""

    seq: int
    lease: Lease


class ReleaseRequest(Message):
    """``release`` by Update (container) or Signal (keeper, container). ``save`` keeps the work."""

    claim_id: str
    token: int
    seq: int = 0
    save: bool = True
    reason: EndReason = EndReason.RELEASED


class ReleaseReply(Message):
    claim_id: str
    container: str
    reason: EndReason
    saved: SavedWork


class Retire(Message):
    """Signal ``retire`` to a container. A claimed one saves its work first."""

    seq: int
    reason: EndReason


class Ask(Message):
    """Signal ``ask`` to a container: say how you are."""

    seq: int


class Died(Message):
    """Signal ``died`` from the host's watch: the Docker container is not running any more."""

    docker_id: str
    detail: str = ""


class ExtendRequest(Message):
    """``ttl_s`` counts from now; the lease never gets shorter."""

    token: int
    ttl_s: float


class ExtendReply(Message):
    expires_at: float


class ArmRequest(Message):
    """Update ``arm`` of a container: answers when the claim with ``token`` is armed."""

    claim_id: str
    token: int


class ArmReply(Message):
    armed: bool


# ── claims ───────────────────────────────────────────────────────────────────────────────────

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


class ClaimRequest(Message):
    """Ask for one container. The same ``claim_id`` with the same request gets the same lease.

    ``ttl_s`` 0 means the pool's; ``wait_s`` 0 means: now or never. ``corpse`` names the container
    of this claim that was found dead, with ``corpse_token``. What differs between two requests
    decides ``ConflictError``: holder, ttl_s and labels.
    """

    claim_id: str
    holder: str = ""
    ttl_s: float = 0.0
    wait_s: float = 0.0
    issued_at: float = 0.0
    labels: dict[str, str] = Field(default_factory=dict)
    corpse: str = ""
    corpse_token: int = 0
    save: bool = True


class Lease(Message):
    """A holder's right to one container until ``expires_at``, fenced by ``token``."""

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


class Queued(Message):
    position: int
    eta_s: float
    wait_workflow: str
    miss_reason: MissReason


class ClaimReply(Message):
    """The answer of Update ``claim``: exactly one of ``lease`` and ``queued`` is there."""

    outcome: Literal["granted", "queued"]
    lease: Lease | None = None
    queued: Queued | None = None


class WaitInput(Message):
    pool: str
    request: ClaimRequest


class WaitVerdict(Message):
    """Signal ``verdict`` to a Wait, and its result: a lease, or why there is none."""

    lease: Lease | None = None
    reason: EndReason | None = None
    detail: str = ""


class CancelClaim(Message):
    """Signal ``cancel`` to the keeper: this queued claim is not wanted any more."""

    claim_id: str
    reason: EndReason = EndReason.CANCELLED


class LeaseQuery(Message):
    claim_id: str


# ── the pool ─────────────────────────────────────────────────────────────────────────────────


class ConfigureRequest(Message):
    """Update ``configure``: this is the pool file now. ``resume_from_down`` wakes after ``up``."""

    config: PoolConfig
    resume_from_down: bool = False


class ConfigureReply(Message):
    """``created`` for a new pool; ``changed`` one line per difference."""

    created: bool
    changed: tuple[str, ...] = ()


class ResizeRequest(Message):
    min: int
    max: int | None = None


class Pushed(Message):
    """Signal ``pushed``: look at the repository again. ``force`` also forgives failures."""

    commit: str = ""
    force: bool = False


class SuspendRequest(Message):
    """Update ``suspend``: retire what can be, for ``down`` or ``delete``.

    Refused while claims live, unless ``force`` (their work is saved first).
    """

    reason: EndReason = EndReason.DOWN
    force: bool = False


class SuspendReply(Message):
    live_claims: tuple[str, ...] = ()
    containers: int = 0


class SlotView(Message):
    container: str
    state: State
    host: str = ""
    since: float
    fingerprint: str
    commit: str
    claim_id: str = ""
    holder: str = ""
    expires_at: float = 0.0
    ending: str = ""


class Counts(Message):
    creating: int = 0
    cloning: int = 0
    installing: int = 0
    ready: int = 0
    claimed: int = 0
    stale: int = 0
    retired_total: int = 0


class RefreshView(Message):
    """``state``: ``idle``, ``resolving``, ``building``, ``rolling``, ``failed``."""

    state: str = "idle"
    commit: str = ""
    fingerprint: str = ""
    since: float = 0.0
    error: Failure | None = None
    retry_at: float | None = None
    attempts: int = 0


class PoolStatus(Message):
    """What ``status``, the API, the metrics and the UI's details all show."""

    pool: str
    repo: str
    ref: str
    commit: str
    fingerprint: str
    target: int
    max: int
    paused: bool
    suspended: str = ""
    counts: Counts
    queue: int
    containers: tuple[SlotView, ...]
    hit_rate: float | None
    cold_rate: float | None
    claims_warm: int = 0
    claims_cold: int = 0
    claims_refused: dict[str, int] = Field(default_factory=dict)
    misses: dict[str, int] = Field(default_factory=dict)
    retired: dict[str, int] = Field(default_factory=dict)
    refresh: RefreshView
    failure: Failure | None = None
    failure_streak: int = 0
    retry_at: float | None = None
    snapshot: SnapshotRecord | None = None
    preparation_s: tuple[float, ...] = ()
    generation: int = 0
    at: float = 0.0


# ── the host ─────────────────────────────────────────────────────────────────────────────────


class HostInput(Message):
    host: str
    queue: str


class Done(Message):
    """The answer of what has nothing to say but that it is done."""


Claimed.model_rebuild()
