"""What claims and containers are told, and answer: plain JSON, one model per message.

The rules of ``core.records`` hold: plain JSON, epoch seconds, one model per message.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from greenroom.core.brought import Brought, in_the_clear
from greenroom.core.config import PoolConfig
from greenroom.core.lifecycle import EndReason
from greenroom.core.records import Failure, Lease, Message, MissReason, SavedWork, SnapshotRecord


class ContainerInput(Message):
    pool: str
    container: str
    config: PoolConfig
    snapshot: SnapshotRecord


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
    held: bool = False
    reason: EndReason | None = None
    failure: Failure | None = None
    saved: SavedWork | None = None


class Claimed(Message):
    """Signal ``claimed`` to a container: this lease is yours now.

    ``transferred``: it was already, under another token and holder.
    """

    seq: int
    lease: Lease
    transferred: bool = False
    brought: Brought | None = None


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
    """``ttl_s`` counts from now; the lease never gets shorter.

    ``hold`` is for debugging: up to the pool's ``max_hold``, and no heartbeat is demanded any more.
    """

    token: int
    ttl_s: float
    hold: bool = False


class ExtendReply(Message):
    expires_at: float
    held: bool = False


class TransferRequest(Message):
    """Update ``transfer`` of the keeper: another holder under a new token.

    ``token`` is the live lease's. The same request again gets the same answer.
    """

    claim_id: str
    token: int
    holder: str


class TransferReply(Message):
    lease: Lease


class ArmRequest(Message):
    """Update ``arm`` of a container: answers when the claim with ``token`` is armed."""

    claim_id: str
    token: int


class ArmReply(Message):
    """``failed_hook`` and ``hook_tail``: which claim hook failed, and the end of its output."""

    armed: bool
    failed_hook: str = ""
    hook_tail: str = ""


class ArmedNews(Message):
    """Signal ``armed`` to the ``reply_to`` of a claim: commands can run now."""

    claim_id: str
    token: int
    failed_hook: str = ""


class ClaimRequest(Message):
    """Ask for containers. The same ``claim_id`` with the same request gets the same leases.

    ``ttl_s`` and ``heartbeat_s`` 0 mean the pool's; ``wait_s`` 0 means: now or never; a higher
    ``priority`` (-100 to 100) goes first. ``count`` above 1 asks for a group: all at once or,
    ``partial``, what is there, at least one; its members are claims of their own,
    ``<claim_id>.1`` and so on. ``corpse`` names the container of this claim (of its ``member``)
    that was found dead, with ``corpse_token``. ``reply_to`` is a workflow that gets Signals
    ``verdict`` (in place of a ``Wait``), ``armed`` and ``ended``. ``plain`` is filled when the
    request carries ``env``, ``secrets`` or ``files``: it is refused. Two requests under one id must
    agree in holder, ttl_s, heartbeat_s, labels, priority, count, partial, sealed and host_secrets.
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
    heartbeat_s: float = 0.0
    priority: int = 0
    count: int = 1
    partial: bool = False
    member: int = 0
    sealed: dict[str, str] = Field(default_factory=dict)
    host_secrets: tuple[str, ...] = ()
    reply_to: str = ""
    brings: bool = False
    plain: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _forget_secrets(cls, given: object) -> object:
        return in_the_clear(given, ("env", "secrets", "files"))

    def brought(self) -> Brought | None:
        """What must follow the claim to whatever container it gets; None for nothing."""
        found = Brought(
            sealed=self.sealed,
            host_secrets=self.host_secrets,
            reply_to=self.reply_to,
            brings=self.brings,
        )
        return None if found == Brought() else found


class Queued(Message):
    """``position`` counts claims from 1; ``eta_s`` is an estimate from what preparing took."""

    position: int
    eta_s: float
    wait_workflow: str
    miss_reason: MissReason


class ClaimReply(Message):
    """The answer of Update ``claim``: ``lease``, a group's ``leases``, or ``queued``.

    A group that was granted before answers with the leases of its members that are live.
    """

    outcome: Literal["granted", "queued"]
    lease: Lease | None = None
    queued: Queued | None = None
    leases: tuple[Lease, ...] = ()


class ClaimBatch(Message):
    """Update ``claims``: several callers' claims at once."""

    requests: tuple[ClaimRequest, ...]


class Refusal(Message):
    """Why one claim of a batch got no reply: an error by its ``code`` (``core.errors``)."""

    code: str
    message: str
    details: dict[str, str | int | float | bool | None] = Field(default_factory=dict)


class ClaimAnswer(Message):
    """The answer to one claim of a batch: exactly one of the two is there."""

    reply: ClaimReply | None = None
    refusal: Refusal | None = None


class ClaimBatchReply(Message):
    """``answers`` stand in the order of the requests."""

    answers: tuple[ClaimAnswer, ...]


class WaitInput(Message):
    pool: str
    request: ClaimRequest


class WaitVerdict(Message):
    """Signal ``verdict`` to a Wait, and its result: a lease (a group's ``leases``), or why not.

    ``code`` is that of the error by which the claim was refused.
    """

    lease: Lease | None = None
    reason: EndReason | None = None
    detail: str = ""
    leases: tuple[Lease, ...] = ()
    code: str = ""

    def granted(self) -> tuple[Lease, ...]:
        """Every lease that it brings."""
        return self.leases or ((self.lease,) if self.lease is not None else ())


class CancelClaim(Message):
    """Signal ``cancel`` to the keeper: this queued claim is not wanted any more."""

    claim_id: str
    reason: EndReason = EndReason.CANCELLED
    reply_to: str = ""


class EndedClaim(Message):
    """How a claim ended. ``reason`` None: its container is still being put away."""

    state: Literal["ended"] = "ended"
    claim_id: str
    pool: str
    container: str
    reason: EndReason | None = None
    ended_at: float = 0.0


class LeaseQuery(Message):
    claim_id: str
