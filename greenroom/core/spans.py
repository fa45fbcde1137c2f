"""Times as people read them."""

from __future__ import annotations


def span(seconds: float) -> str:
    """A short form of a time: ``850ms``, ``12s``, ``5m``, ``3h``, ``2d``."""
    if seconds < 0:
        return "0s"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    for limit, unit, size in ((120, "s", 1), (7200, "m", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"
