"""The ledger's slots as they are stored: each fact once, so that 1,000 live leases fit the budget.

Most containers share commit, fingerprint and shape, and a lease repeats what its slot says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from greenroom.core.names import container_workflow_id

_KIND = ("fingerprint", "commit", "shape")
_SHARED = ("container", "host", "docker_id", "commit", "fingerprint")
"""What a lease and its slot both say."""


def packed_slots(slots: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Slots by what they were made from, then by container; ``slots`` are dumped without defaults.

    What ``full_slots`` can restore is left out.
    """
    kinds: dict[str, Any] = {}
    for slot in slots:
        if "lease" in slot:
            slot["lease"] = _packed_lease(slot, slot["lease"])
        kind = " ".join(slot.pop(name, "") for name in _KIND)
        kinds.setdefault(kind, {})[slot.pop("container")] = slot
    return kinds


def full_slots(stored: object, pool: str) -> object:
    """The slots of ``packed_slots``, complete; other values are given back as they are."""
    if not isinstance(stored, dict) or not all(" " in kind for kind in stored):
        return stored  # of a version that wrote them in full, or slots themselves
    slots: dict[str, Any] = {}
    for kind, members in stored.items():
        made_from = dict(zip(_KIND, kind.split(" "), strict=True))
        for container, packed in members.items():
            slot = {"container": container, **made_from, **packed}
            if "lease" in slot:
                slot["lease"] = _full_lease(slot, pool)
            slots[container] = slot
    return slots


def _packed_lease(slot: dict[str, Any], lease: dict[str, Any]) -> dict[str, Any]:
    told_twice = {"pool", "container_workflow", *_SHARED}
    if lease["granted_at"] == slot["since"]:
        told_twice.add("granted_at")
    packed = {name: value for name, value in lease.items() if name not in told_twice}
    differing = {
        name: lease.get(name, "") for name in _SHARED if lease.get(name, "") != slot.get(name, "")
    }
    return packed | differing


def _full_lease(slot: dict[str, Any], pool: str) -> dict[str, Any]:
    return {
        "pool": pool,
        "container_workflow": container_workflow_id(pool, slot["container"]),
        "granted_at": slot["since"],
        **{name: slot.get(name, "") for name in _SHARED},
        **slot["lease"],
    }
