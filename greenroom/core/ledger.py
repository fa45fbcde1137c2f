"""The keeper's ledger: the one state that a pool has, carried over every continue-as-new.

Only the keeper writes it. It must stay below BUDGET_BYTES, because a payload over Temporal's
2 MiB would make the keeper fail for ever.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Literal

from pydantic import (
    BaseModel,
    Field,
    SerializationInfo,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from greenroom.core.brought import Brought
from greenroom.core.config import PoolConfig
from greenroom.core.lifecycle import EndReason, Event, State, next_state
from greenroom.core.messages import ClaimRequest
from greenroom.core.records import Failure, Lease, SnapshotRecord, Source
from greenroom.core.stored import full_slots, packed_slots

BUDGET_BYTES = 512 * 1024
SEGMENT = 500
"""Ended claims per segment of the memory; the oldest whole segment is forgotten at once."""
SEGMENTS = 10
TIMINGS = 20
"""Preparation times that are remembered, for the queue's ETA."""

_REASON_CODES = {reason: chr(ord("a") + index) for index, reason in enumerate(EndReason)}
_REASONS = {code: reason for reason, code in _REASON_CODES.items()}


class Asked(BaseModel):
    """What a claim asked for, as far as its lease does not say it."""

    ttl_s: float = 0.0
    heartbeat_s: float = 0.0
    priority: int = 0
    count: int = 1
    partial: bool = False


class Slot(BaseModel):
    """One container as the ledger knows it. ``ending`` is set from the intent to the end."""

    container: str
    state: State = State.CREATING
    since: float
    created_at: float
    fingerprint: str
    shape: str = ""
    commit: str
    host: str = ""
    docker_id: str = ""
    lease: Lease | None = None
    asked: Asked | None = None
    brought: Brought | None = None
    transferred_from: int = 0
    """The token before the lease's present one, when it was transferred."""
    ending: EndReason | None = None
    asked_at: float = 0.0
    seen_seq: int = 0
    sent_seq: int = 0

    @property
    def kind(self) -> tuple[str, str]:
        """What it was made from, and what its creation fixed."""
        return self.fingerprint, self.shape

    def advance(self, event: Event, now: float) -> None:
        """Apply one lifecycle event; an illegal one raises and changes nothing."""
        self.state = next_state(self.state, event)
        self.since = now


class Waiting(BaseModel):
    """A queued claim; ``core.queue`` orders them. ``asked`` None: what ``request`` says.

    A member of a group that waits for another container is one of its own: ``request`` is then
    for that member alone, and ``group`` names the claim that it belongs to. ``arrival`` numbers
    claims as they come; ``passed`` counts later ones of other holders that went first; ``head``
    goes before all others.
    """

    request: ClaimRequest
    since: float
    miss_reason: str = ""
    asked: Asked | None = None
    arrival: int = 0
    passed: int = 0
    head: bool = False
    group: str = ""
    group_size: int = 0


class OutboxEntry(BaseModel):
    """One outbound Signal or child start; removed when Temporal has recorded it."""

    id: int
    kind: Literal["signal", "start"]
    workflow_id: str
    name: str
    payload: dict[str, Any] = Field(default_factory=dict)


class EndedSegment(BaseModel):
    """Up to SEGMENT ended claims: id hash → container, reason code. ``until``: the last end."""

    until: float = 0.0
    claims: dict[str, str] = Field(default_factory=dict)


class Streak(BaseModel):
    """Consecutive failures of one kind of preparation, and when the next try may be made."""

    count: int = 0
    retry_at: float | None = None
    failure: Failure | None = None
    at: float = 0.0
    """When the last failure was heard of; what began before belongs to the same round."""


class Build(BaseModel):
    """The snapshot that is being built."""

    source: Source
    since: float
    asked_at: float = 0.0


class Counters(BaseModel):
    """Totals since the pool began."""

    warm: int = 0
    cold: int = 0
    refused: dict[str, int] = Field(default_factory=dict)
    misses: dict[str, int] = Field(default_factory=dict)
    retired: dict[str, int] = Field(default_factory=dict)
    failures: int = 0


class Ledger(BaseModel):
    """The keeper's whole state (see the module)."""

    pool: str
    config: PoolConfig
    generation: int = 1
    paused: bool = False
    suspended: EndReason | None = None
    look: bool = True
    """Whether the repository must be looked at (again)."""
    wanted: Source | None = None
    serving: SnapshotRecord | None = None
    build: Build | None = None
    build_streak: Streak = Field(default_factory=Streak)
    slot_streak: Streak = Field(default_factory=Streak)
    slots: dict[str, Slot] = Field(default_factory=dict)
    queue: list[Waiting] = Field(default_factory=list)
    arrivals: int = 0
    ended: list[EndedSegment] = Field(default_factory=list)
    low_water: float = 0.0
    last_token: int = 0
    outbox: list[OutboxEntry] = Field(default_factory=list)
    last_entry: int = 0
    counters: Counters = Field(default_factory=Counters)
    timings: list[float] = Field(default_factory=list)

    @field_serializer("slots")
    def _pack_slots(self, slots: dict[str, Slot], info: SerializationInfo) -> dict[str, Any]:
        mode: Literal["json", "python"] = "json" if info.mode_is_json() else "python"
        return packed_slots(
            slot.model_dump(mode=mode, exclude_defaults=True) for slot in slots.values()
        )

    @field_validator("slots", mode="before")
    @classmethod
    def _restore_slots(cls, value: object, info: ValidationInfo) -> object:
        return full_slots(value, info.data.get("pool", ""))

    @field_serializer("queue")
    def _pack_queue(self, queue: list[Waiting], info: SerializationInfo) -> list[dict[str, Any]]:
        mode: Literal["json", "python"] = "json" if info.mode_is_json() else "python"
        return [waiting.model_dump(mode=mode, exclude_defaults=True) for waiting in queue]

    def size_bytes(self) -> int:
        """The ledger's size as the payload that it will be."""
        return len(self.model_dump_json().encode())

    def next_token(self) -> int:
        """A fencing token greater than every one before it."""
        self.last_token += 1
        return self.last_token

    def post(
        self, kind: Literal["signal", "start"], workflow_id: str, name: str, message: BaseModel
    ) -> None:
        """Put one outbound message into the outbox."""
        self.last_entry += 1
        self.outbox.append(
            OutboxEntry(
                id=self.last_entry,
                kind=kind,
                workflow_id=workflow_id,
                name=name,
                payload=message.model_dump(mode="json"),
            )
        )

    def shape(self) -> str:
        """A hash of what a container fixes at its creation besides its snapshot."""
        fixed = {"limits", "network", "env", "trust_host_ca"}
        if self.config.hooks.claim:
            fixed.add("hooks")
        text = self.config.model_dump_json(include=fixed)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def fresh_kind(self) -> tuple[str, str] | None:
        """The ``Slot.kind`` of what would be made now; None when nothing can be made."""
        return (self.serving.source.fingerprint, self.shape()) if self.serving else None

    def is_fresh(self, slot: Slot) -> bool:
        """Whether a slot is what would be made now. For many slots ask ``fresh_kind`` once."""
        return slot.kind == self.fresh_kind()

    def slot_of(self, claim_id: str) -> Slot | None:
        """The live slot that holds this claim's lease."""
        for slot in self.slots.values():
            if slot.lease is not None and slot.lease.claim_id == claim_id:
                return slot
        return None

    def slots_of(self, claim_id: str) -> list[Slot]:
        """The live slots of a claim: its own, or those of a group's members."""
        return [
            slot
            for slot in self.slots.values()
            if slot.lease is not None and claim_id in (slot.lease.claim_id, slot.lease.group)
        ]

    def remember_ended(self, claim_id: str, container: str, reason: EndReason, now: float) -> None:
        """Note an ended claim; forgets the oldest segment when there are too many."""
        if not self.ended or len(self.ended[-1].claims) >= SEGMENT:
            self.ended.append(EndedSegment())
        segment = self.ended[-1]
        segment.claims[claim_key(claim_id)] = container + _REASON_CODES[reason]
        segment.until = now
        while len(self.ended) > SEGMENTS:
            self.forget_oldest()

    def forget_oldest(self) -> bool:
        """Drop the oldest ended segment and raise the low-water mark; False when there is none."""
        if not self.ended:
            return False
        self.low_water = max(self.low_water, self.ended.pop(0).until)
        return True

    def fit_budget(self) -> None:
        """Forget ended claims until the ledger fits BUDGET_BYTES (live ones are never dropped)."""
        while self.size_bytes() > BUDGET_BYTES and self.forget_oldest():
            pass

    def find_ended(self, claim_id: str) -> tuple[str, EndReason] | None:
        """Container ('' for none) and reason of an ended claim that is still remembered."""
        key = claim_key(claim_id)
        for segment in reversed(self.ended):
            found = segment.claims.get(key)
            if found is not None:
                return found[:-1], _REASONS[found[-1]]
        return None


class KeeperInput(BaseModel):
    """The keeper's input: a pool file for a new pool, its ledger for every later run."""

    pool: str
    config: PoolConfig
    ledger: Ledger | None = None


def claim_key(claim_id: str) -> str:
    """10 characters (60 bits) that stand for an ended claim's id."""
    return base64.urlsafe_b64encode(hashlib.sha256(claim_id.encode()).digest())[:10].decode()


def bump(totals: dict[str, int], key: str, by: int = 1) -> None:
    """Count ``by`` more of ``key``."""
    totals[key] = totals.get(key, 0) + by
