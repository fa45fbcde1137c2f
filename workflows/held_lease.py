"""The lease of one container as its workflow holds it: whose it is, until when, which token."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from greenroom.core.config import LeaseTerms
    from greenroom.core.errors import FencedError, UsageError
    from greenroom.core.lease_clock import Due, LeaseClock
    from greenroom.core.messages import ExtendReply, ExtendRequest, ReleaseRequest
    from greenroom.core.orders import LastBeat
    from greenroom.core.records import Lease
    from workflows import failures

GRANT_PATIENCE = timedelta(seconds=10)
"""How long a holder's Update waits for the keeper's ``claimed`` before it is a stranger's."""


class HeldLease:
    """At most one lease; ``lease`` is None until the keeper's ``claimed``.

    ``extending`` counts the extensions that are being written on the host; ``warned`` says that
    the holder knows how soon the lease ends.
    """

    def __init__(self, terms: LeaseTerms) -> None:
        self._terms = terms
        self.lease: Lease | None = None
        self.extending = 0
        self.warned = False
        self._armed_token = 0
        self._beat_at = self._checked_at = 0.0
        self._early: ReleaseRequest | None = None

    # ── whose it is ──────────────────────────────────────────────────────────────────────────

    def take(self, told: Lease, now: float) -> bool:
        """A grant or a transfer; False for one that is not newer than what is held.

        A transfer changes neither the end, which only this workflow knows for sure, nor a hold.
        """
        before = self.lease
        if before is not None and told.token <= before.token:
            return False
        if before is not None:
            later = max(told.expires_at, before.expires_at)
            told = told.model_copy(update={"expires_at": later, "held": before.held})
        self.lease = told
        self._beat_at = now
        return True

    @property
    def armed(self) -> bool:
        """Whether the host knows of the lease, with this token."""
        return self.lease is not None and self._armed_token == self.lease.token

    @property
    def served(self) -> bool:
        """Whether a holder could ever use the container, under whatever token."""
        return self._armed_token > 0

    def arm(self, lease: Lease) -> None:
        """The host has armed this lease."""
        self._armed_token = lease.token

    def knows(self, token: int) -> bool:
        """Whether the ``claimed`` with this token has come."""
        return self.lease is not None and self.lease.token >= token

    def check_token(self, token: int, *, newer: bool = False) -> None:
        """Refuse another token than the lease's, as an ApplicationError of code ``fenced``.

        ``newer``: but not one whose transfer may still be on its way from the keeper.
        """
        if self.lease is None or token == self.lease.token or (newer and token > self.lease.token):
            return
        raise failures.refusal(FencedError(f"token {token} is not that of the live lease"))

    # ── its end ──────────────────────────────────────────────────────────────────────────────

    def ended_by(self, request: ReleaseRequest) -> bool:
        """Whether a release by Signal ends it now; one that overtook its grant is kept."""
        if self.lease is None:
            self._early = request
            return False
        return request.token >= self.lease.token

    def early_release(self) -> ReleaseRequest | None:
        """The release that came before the grant that it belongs to."""
        early = self._early
        if early is None or self.lease is None or early.token < self.lease.token:
            return None
        return early

    def check_extension(self, request: ExtendRequest) -> None:
        """Refuse one that is too long, as an ApplicationError of code ``usage``."""
        name = "max_hold" if request.hold else "max_ttl"
        longest = self._terms.max_hold if request.hold else self._terms.max_ttl
        if not 0 < request.ttl_s <= longest:
            told = f"ttl_s {request.ttl_s:g} is not within 1 and the pool's lease.{name}"
            raise failures.refusal(UsageError(f"{told} {longest:g}"))

    def lengthen(self, lease: Lease, reply: ExtendReply) -> None:
        """The host has written a later end for ``lease``; it never gets an earlier one."""
        held = self.lease or lease
        later = max(reply.expires_at, held.expires_at)
        self.lease = held.model_copy(update={"expires_at": later, "held": held.held or reply.held})
        self.warned = False

    # ── its times ────────────────────────────────────────────────────────────────────────────

    def due(self, now: float) -> Due | None:
        """What the lease needs now; its end waits for an extension that is being written."""
        due = self._clock().due(now) if self.lease is not None else None
        return None if due is Due.END and self.extending else due

    def wake_at(self) -> float | None:
        """When something is due by itself; None: never."""
        return None if self.lease is None else self._clock().wake_at()

    def hear_beat(self, last: LastBeat | None, now: float) -> bool:
        """The host's answer (None: it gave none, nobody is blamed); False: nobody holds it."""
        age = 0.0 if last is None else last.age_s
        if age is not None:
            self._beat_at = max(self._beat_at, now - max(0.0, age))
        self._checked_at = now
        return not self._clock().is_abandoned(now)

    def _clock(self) -> LeaseClock:
        lease, terms = self.lease, self._terms
        if lease is None:
            return LeaseClock(expires_at=0.0)
        return LeaseClock(
            expires_at=lease.expires_at,
            warn_s=terms.warn,
            warned=self.warned,
            beat_s=0.0 if lease.held else lease.heartbeat_s,
            grace_s=terms.grace,
            beat_at=self._beat_at,
            checked_at=self._checked_at,
            granted_at=lease.granted_at,
        )
