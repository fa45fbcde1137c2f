"""Which saved work is kept: by age, then the oldest beyond a pool's budget go."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from greenroom.core.config import SavedTerms


@dataclass(frozen=True)
class SavedEntry:
    """The saved work of one claim. ``at`` in epoch seconds; ``name`` is the claim's id."""

    name: str
    at: float
    size_bytes: int


@dataclass(frozen=True)
class Pruned:
    """One that goes, and why, for the log."""

    name: str
    why: str


def prune(found: Iterable[SavedEntry], terms: SavedTerms, now: float) -> list[Pruned]:
    """What goes of one pool's saved work, oldest first."""
    gone, total = [], 0
    for entry in sorted(found, key=lambda one: (one.at, one.name), reverse=True):
        if entry.at < now - terms.keep:
            gone.append(Pruned(entry.name, f"older than saved.keep ({terms.keep:g} s)"))
            continue
        total += entry.size_bytes
        if total > terms.max_total:
            total -= entry.size_bytes
            gone.append(Pruned(entry.name, f"beyond saved.max_total ({terms.max_total} bytes)"))
    return gone[::-1]
