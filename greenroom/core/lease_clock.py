"""What a live lease needs when: its end, the warning before it, a look at its holder's heartbeat.

Times are epoch seconds on the workflow's clock, durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

LATER = 0.01
"""By how much of a lease's age its abandonment may be found late."""


class Due(Enum):
    """What a lease needs now."""

    END = "end"
    WARNING = "warning"
    BEAT_CHECK = "beat_check"


@dataclass(frozen=True)
class LeaseClock:
    """A lease's times. ``warn_s`` 0: no warning; ``beat_s`` 0: no heartbeat is demanded.

    ``beat_at`` is the last heartbeat that is known of, ``checked_at`` when the host was asked.
    """

    expires_at: float
    warn_s: float = 0.0
    warned: bool = False
    beat_s: float = 0.0
    grace_s: float = 0.0
    beat_at: float = 0.0
    checked_at: float = 0.0
    granted_at: float = 0.0

    def due(self, now: float) -> Due | None:
        """What is needed at ``now``; None: nothing before ``wake_at``."""
        if now >= self.expires_at:
            return Due.END
        if now >= self._warn_at():
            return Due.WARNING
        if now >= self._check_at():
            return Due.BEAT_CHECK
        return None

    def wake_at(self) -> float:
        """The earliest time at which something is due."""
        return min(self.expires_at, self._warn_at(), self._check_at())

    def is_abandoned(self, now: float) -> bool:
        """Whether its holder's last heartbeat is too long ago."""
        return bool(self.beat_s) and now >= self.beat_at + self.beat_s + self.grace_s

    def _warn_at(self) -> float:
        unwarned = self.warn_s > 0 and not self.warned
        return self.expires_at - self.warn_s if unwarned else self.expires_at

    def _check_at(self) -> float:
        """The earliest possible end, but no sooner than one period after the last look.

        The older the lease, the longer between looks: each is some ten events of a history that
        has room for 50,000, and a month of looks every second must not fill it.
        """
        if not self.beat_s:
            return self.expires_at
        silent_at = self.beat_at + self.beat_s + self.grace_s
        pause = max(self.beat_s, (self.checked_at - self.granted_at) * LATER)
        return max(silent_at, self.checked_at + pause)
