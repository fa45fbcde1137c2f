"""What the gate decided: counters by pool, and one JSON line per connection."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from greenroom.gate.authority import Target

LINES_PER_WINDOW = 300
"""Lines that one container may cause in a window: a program in a loop must not fill the disk."""
WINDOW_S = 60.0


@dataclass(frozen=True)
class Caller:
    """Who asks: names for the log."""

    pool: str
    container: str
    claim: str


@dataclass
class _Budget:
    until: float = 0.0
    written: int = 0
    suppressed: int = 0


@dataclass
class Entry:
    """One allowed connection. ``up`` and ``down`` are bytes; closing it twice logs once."""

    books: Books
    caller: Caller
    target: Target
    up: int = 0
    down: int = 0
    closed: bool = False

    def close(self, reason: str) -> None:
        """Log the end of a connection that was allowed."""
        if not self.closed:
            self.closed = True
            self.books.log(self, "allowed", reason)

    def deny(self, reason: str) -> None:
        """Count and log a connection that turned out to be one that is not allowed."""
        if not self.closed:
            self.closed = True
            self.books.count(self.caller.pool, "denied")
            self.books.log(self, "denied", reason)


@dataclass
class Books:
    """Counters and log of one gate.

    ``write`` takes one line without its end; ``lost`` counts lines that could not be written.
    """

    write: Callable[[str], None]
    clock: Callable[[], float] = time.time
    pools: dict[str, dict[str, int]] = field(default_factory=dict)
    lost: int = 0
    _budgets: dict[str, _Budget] = field(default_factory=dict)

    def allowed(self, caller: Caller, target: Target) -> Entry:
        """Count an allowed connection; it is logged when its entry is closed."""
        self.count(caller.pool, "allowed")
        return Entry(self, caller, target)

    def denied(self, caller: Caller, target: Target, reason: str) -> None:
        """Count and log a refusal."""
        Entry(self, caller, target).deny(reason)

    def count(self, pool: str, verdict: str) -> None:
        """Add one to a pool's counter."""
        counters = self.pools.setdefault(pool, {"allowed": 0, "denied": 0})
        counters[verdict] += 1

    def forget(self, container: str) -> None:
        """Drop what is kept about a container that is gone."""
        self._budgets.pop(container, None)

    def log(self, entry: Entry, verdict: str, reason: str) -> None:
        """Write one line, unless the container used up its lines of this window."""
        now = self.clock()
        budget = self._budgets.setdefault(entry.caller.container, _Budget())
        suppressed = 0
        if now >= budget.until:
            suppressed = budget.suppressed
            budget.until, budget.written, budget.suppressed = now + WINDOW_S, 0, 0
        if budget.written >= LINES_PER_WINDOW:
            budget.suppressed += 1
            return
        budget.written += 1
        line: dict[str, str | int | float] = {
            "time": round(now, 3),
            "pool": entry.caller.pool,
            "container": entry.caller.container,
            "claim": entry.caller.claim,
            "name": entry.target.host,
            "port": entry.target.port,
            "verdict": verdict,
            "reason": reason,
            "bytes_up": entry.up,
            "bytes_down": entry.down,
        }
        if suppressed:
            line["suppressed"] = suppressed
        try:
            self.write(json.dumps(line))
        except OSError:
            self.lost += 1  # a full disk must neither open nor close the gate
