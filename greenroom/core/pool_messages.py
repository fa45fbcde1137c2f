"""Messages to and from the keeper about the pool itself, its snapshots and its host.

The rules of ``core.records`` hold: plain JSON, epoch seconds, one model per message.
"""

from __future__ import annotations

from pydantic import Field

from greenroom.core.config import PoolConfig
from greenroom.core.lifecycle import EndReason, State
from greenroom.core.records import Failure, Message, SnapshotRecord, Source


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
    held: bool = False
    ending: str = ""
    group: str = ""


class WaitingView(Message):
    """A queued claim. ``position`` from 1; ``miss_reason`` is why it waits now."""

    claim_id: str
    holder: str = ""
    position: int
    eta_s: float
    miss_reason: str
    since: float
    priority: int = 0
    count: int = 1


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
    waiting: tuple[WaitingView, ...] = ()


class HostInput(Message):
    host: str
    queue: str
