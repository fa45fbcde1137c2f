"""What a run is recorded as. Times (``at``) are epoch seconds of one host's clock.

Record what a client does before it does it, and what it was answered after the answer: then a
moment in an event is never later than the moment that the event is about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EndStepName = Literal["token_refused", "gate_closed", "killed", "stopped", "saved", "removed"]
Kind = Literal["slot_file", "listener", "personal", "image", "builder"]
Evidence = Literal["not_found", "closed", "error", "none"]


@dataclass(frozen=True)
class Event:
    at: float


# ── claims ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Granted(Event):
    """A claim was answered with a lease (the same answer may be recorded again)."""

    pool: str
    claim: str
    container: str
    token: int
    expires_at: float


@dataclass(frozen=True)
class Extended(Event):
    claim: str
    token: int
    expires_at: float


@dataclass(frozen=True)
class ExecOk(Event):
    """A command was started under a token at ``at``, and it ran."""

    claim: str
    container: str
    token: int


@dataclass(frozen=True)
class ExecRefused(Event):
    """A command was refused because the claim is said to be unknown or over."""

    claim: str
    container: str
    token: int


@dataclass(frozen=True)
class Reached(Event):
    """Something outside was reached from a container under its claimed policy."""

    container: str
    host: str


@dataclass(frozen=True)
class Released(Event):
    """A release was answered (record it after the answer); ``discard``: without saving."""

    claim: str
    container: str
    token: int
    discard: bool = False


@dataclass(frozen=True)
class Expired(Event):
    """The lease was ended because its time was over, or its container had died (``reason``)."""

    claim: str
    container: str
    token: int
    reason: str = "expired"


@dataclass(frozen=True)
class EndStep(Event):
    """One step of the end of a claimed container."""

    container: str
    step: EndStepName


@dataclass(frozen=True)
class WorkWritten(Event):
    """The holder left something in the work tree that must survive."""

    claim: str
    container: str


@dataclass(frozen=True)
class Saved(Event):
    claim: str
    container: str
    state: Literal["clean", "saved", "discarded", "unsaved"]


# ── containers and what belongs to them ──────────────────────────────────────────────────────


@dataclass(frozen=True)
class ContainerStarted(Event):
    container: str


@dataclass(frozen=True)
class ContainerDied(Event):
    container: str


@dataclass(frozen=True)
class ContainerRemoved(Event):
    container: str


@dataclass(frozen=True)
class ContainerReady(Event):
    """The pool offers this container to claims."""

    container: str


@dataclass(frozen=True)
class Kept(Event):
    """A thing of a container (or snapshot, named by ``owner``) is there, or is not any more."""

    kind: Kind
    name: str
    owner: str
    present: bool


@dataclass(frozen=True)
class WorkflowOpen(Event):
    """The workflow of ``owner`` (a container or a snapshot's fingerprint) runs."""

    owner: str


@dataclass(frozen=True)
class WorkflowClosed(Event):
    owner: str


@dataclass(frozen=True)
class Swept(Event):
    """The sweep removed something. ``lease_end``: 0 where there was no lease."""

    owner: str
    evidence: Evidence
    lease_end: float = 0.0
    own: bool = True


# ── the pool and the run ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class PoolAtTarget(Event):
    pool: str


@dataclass(frozen=True)
class PoolBelowTarget(Event):
    pool: str


@dataclass(frozen=True)
class Intervened(Event):
    """A person (or the test in a person's place) repaired something by hand."""

    what: str


@dataclass(frozen=True)
class Fault(Event):
    """Something was broken on purpose; it lasts until its FaultEnded."""

    name: str


@dataclass(frozen=True)
class FaultEnded(Event):
    name: str


@dataclass(frozen=True)
class Finished(Event):
    """The recording ends: what is still there now is there."""
