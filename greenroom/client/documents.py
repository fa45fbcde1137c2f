"""What the API answers, as models: fields that this version does not know are ignored."""

from __future__ import annotations

from greenroom.core.lifecycle import EndReason
from greenroom.core.pool_messages import SlotView
from greenroom.core.records import Message, SavedWork


class Grant(Message):
    """A claim as it was granted, or found again. Times are epoch seconds."""

    claim_id: str
    pool: str
    container: str
    container_workflow: str
    token: int
    expires_at: float
    host: str = ""
    commit: str = ""
    fingerprint: str = ""
    snapshot_age_s: float = 0.0
    warm: bool = False
    miss_reason: str | None = None
    waited_s: float = 0.0
    armed: bool = False
    stages_ms: dict[str, float] = {}  # noqa: RUF012 - pydantic copies it


class Released(Message):
    """How a claim ended. ``saved`` is None when nobody waited for that."""

    claim_id: str
    container: str = ""
    reason: EndReason = EndReason.RELEASED
    saved: SavedWork | None = None


class SavedRecord(SavedWork):
    """What an ended claim left. ``saved_at`` in epoch seconds; ``base`` is where it began."""

    pool: str
    claim_id: str
    saved_at: float
    reason: str = ""
    base: str = ""
    container: str = ""
    docker_id: str = ""
    workdir: str = ""


class ShownWork(SavedRecord):
    """With the first lines of each list. ``changed_files``: a letter of git's, a tab, a name."""

    size_bytes: int
    commit_lines: tuple[str, ...]
    changed_files: tuple[str, ...]
    ignored_files: tuple[str, ...]


class LiveClaim(SlotView):
    """One entry of the list of live claims."""

    pool: str


class Place(Message):
    """A queued claim's place: 1 is next. ``eta_s`` is a guess in seconds."""

    position: int
    eta_s: float
    miss_reason: str = ""
