"""The host's lease file: one per container, the truth about who may do what with it.

Written by root only (worker and API), read by the gate. Unknown fields are kept, so that a file
survives a version that knows more.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from greenroom.core.config import MOST_SAVED
from greenroom.core.policy import Listener, Phase, Policy


class HostLease(BaseModel):
    """The lease as the host knows it. Times are epoch seconds; ``token`` fences every change.

    ``policy_armed`` and ``personal_armed`` are the done-marks of arming's two parts,
    ``hooks_done`` that of the claim hooks; ``failed_hook`` says which one failed.
    ``heartbeat_s`` 0: none is demanded; ``held``: none any more.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    claim_id: str
    holder: str = ""
    token: int
    expires_at: float
    policy_armed: bool = False
    personal_armed: bool = False
    hooks_done: bool = False
    failed_hook: str = ""
    heartbeat_s: float = 0.0
    held: bool = False
    ended: bool = False
    end_reason: str = ""


class GitAccess(BaseModel):
    """What the gate's git server shows this container: one mirror, limited to some refs."""

    model_config = ConfigDict(frozen=True, extra="allow")

    key: str
    refs: tuple[str, ...] = ()


class SlotRecord(BaseModel):
    """Everything that host processes must know of one container.

    ``kind``: ``slot``, ``builder`` or ``verify``. ``sandbox_key`` is the engine's path of the
    network namespace. ``environment`` is what every command inside gets beside the proxy's
    variables. ``worktree_mark`` is how the work tree looked when the container became ready;
    ``unsaved`` says why the work of its ended claim could not be saved. ``warn_s`` before a lease's
    end its holder is warned (0: not); ``git_name`` and ``git_email`` are the pool's identity for
    commits; of a claim's work ``most_saved`` bytes are kept. ``hooks``: commands
    wait for the claim's hooks.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    container: str
    pool: str
    kind: str = "slot"
    workflow_id: str = ""
    namespace_id: str = ""
    docker_id: str = ""
    sandbox_key: str = ""
    created_at: float = 0.0
    phase: Phase = Phase.PARKED
    policies: dict[Phase, Policy] = Field(default_factory=dict)
    listeners: tuple[Listener, ...] = ()
    hosts: dict[str, str] = Field(default_factory=dict)
    git: GitAccess | None = None
    user: str = "agent"
    uid: int = 1000
    gid: int = 1000
    workdir: str = "/workspace"
    commit: str = ""
    fingerprint: str = ""
    image_id: str = ""
    environment: dict[str, str] = Field(default_factory=dict)
    worktree_mark: str = ""
    unsaved: str = ""
    warn_s: float = 0.0
    git_name: str = ""
    git_email: str = ""
    most_saved: int = MOST_SAVED
    hooks: bool = False
    lease: HostLease | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nobody holds it, or its holder's time is over."""
        return self.phase is Phase.ENDED or self.lease is None or self.lease.ended

    @property
    def policy(self) -> Policy:
        """The policy of the present phase; a missing one allows nothing."""
        return self.policies.get(self.phase, Policy())
