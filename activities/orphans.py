"""What on a host belongs to nobody: decided from facts alone.

An object goes only when its own workflow is positively gone in the very namespace that it was
made for, and its lease file's time is over. Not knowing is never a reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from greenroom.core.names import keeper_id
from greenroom.core.policy import Phase
from greenroom.core.slotfile import SlotRecord

GUARDED = ("slot", "builder", "verify")
"""Kinds of containers that have a lease file."""
PASSING_S = 1200.0
"""Seconds after which a container or image that lives for one step only is a leftover."""
UNSAVED_KEPT_S = 86400.0
"""Seconds for which a container stays whose work could not be saved."""


class Owner(Enum):
    """What is known of a workflow."""

    OPEN = "open"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class OwnContainer:
    """One Docker container of this install. ``created_at`` is in epoch seconds."""

    docker_id: str
    kind: str
    container: str
    workflow: str
    namespace: str
    created_at: float


@dataclass(frozen=True)
class OwnImage:
    """One Docker image of this install. ``fingerprint`` names the record that it may have."""

    image_id: str
    kind: str
    pool: str
    fingerprint: str
    workflow: str
    namespace: str
    created_at: float
    recorded: bool


@dataclass(frozen=True)
class Facts:
    """Everything that was seen of a host; ``owners`` by workflow id, times in epoch seconds.

    ``sites``, ``personal`` and ``claims`` (claim to container) were looked at before ``records``.
    """

    now: float
    namespace: str
    containers: tuple[OwnContainer, ...] = ()
    images: tuple[OwnImage, ...] = ()
    records: dict[str, SlotRecord] = field(default_factory=dict)
    sites: frozenset[str] = frozenset()
    personal: frozenset[str] = frozenset()
    claims: dict[str, str] = field(default_factory=dict)
    owners: dict[str, Owner] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """A container that is to be taken away; ``save`` when a claim's work may be in it."""

    kind: str
    container: str
    save: bool


@dataclass(frozen=True)
class Sweep:
    """What is to be removed."""

    endings: tuple[Ending, ...] = ()
    docker_ids: tuple[str, ...] = ()
    images: tuple[OwnImage, ...] = ()
    sites: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


def owners_to_ask(facts: Facts) -> set[str]:
    """The workflows whose state ``decide`` needs to know."""
    asked = {c.workflow for c in facts.containers if c.namespace == facts.namespace}
    asked |= {r.workflow_id for r in facts.records.values() if r.namespace_id == facts.namespace}
    for image in facts.images:
        if image.namespace == facts.namespace:
            asked |= {_image_owner(image)}
    return asked - {""}


def decide(facts: Facts) -> Sweep:
    """What of the facts belongs to nobody."""
    known = {c.container for c in facts.containers if c.kind in GUARDED} | facts.records.keys()
    return Sweep(
        endings=tuple(_endings(facts)),
        docker_ids=tuple(c.docker_id for c in facts.containers if _is_left_over(facts, c)),
        images=tuple(image for image in facts.images if _is_unwanted(facts, image)),
        sites=tuple(sorted(facts.sites - facts.records.keys())),
        personal=tuple(sorted(facts.personal - known)),
        claims=tuple(
            sorted(c for c, container in facts.claims.items() if container not in facts.records)
        ),
    )


def _endings(facts: Facts) -> Iterable[Ending]:
    seen: set[str] = set()
    for container in facts.containers:
        if container.kind not in GUARDED or container.container in seen:
            continue
        seen.add(container.container)
        record = facts.records.get(container.container)
        gone = _is_gone(facts, container.workflow, container.namespace)
        if gone and _is_over(record, facts.now):
            yield Ending(container.kind, container.container, _may_hold_work(record))
    for name, record in facts.records.items():
        if name in seen:
            continue
        if _is_gone(facts, record.workflow_id, record.namespace_id) and _is_over(record, facts.now):
            yield Ending(record.kind, name, save=False)


def _is_gone(facts: Facts, workflow: str, namespace: str) -> bool:
    if not workflow or namespace != facts.namespace:
        return False
    return facts.owners.get(workflow, Owner.UNKNOWN) is Owner.GONE


def _is_over(record: SlotRecord | None, now: float) -> bool:
    """Whether nobody can have a right to the container any more."""
    if record is None:
        return True
    lease = record.lease
    if record.unsaved:
        return now > max(lease.expires_at if lease else 0.0, record.created_at) + UNSAVED_KEPT_S
    return lease is None or lease.ended or lease.expires_at <= now


def _may_hold_work(record: SlotRecord | None) -> bool:
    if record is None or record.kind != "slot" or record.unsaved:
        return False
    return record.lease is not None and record.lease.policy_armed


def _is_left_over(facts: Facts, container: OwnContainer) -> bool:
    """Savers and the like live for one step only and have no lease file."""
    if container.kind in GUARDED:
        return False
    if _is_gone(facts, container.workflow, container.namespace):
        return True
    return facts.now - container.created_at > PASSING_S


def _image_owner(image: OwnImage) -> str:
    return keeper_id(image.pool) if image.recorded else image.workflow


def _is_unwanted(facts: Facts, image: OwnImage) -> bool:
    if _is_gone(facts, _image_owner(image), image.namespace):
        return True
    return image.kind == "saver" and facts.now - image.created_at > PASSING_S


def is_parked(record: SlotRecord) -> bool:
    """Whether the container of a lease file should be running."""
    return record.kind == "slot" and record.phase is not Phase.ENDED and bool(record.docker_id)
