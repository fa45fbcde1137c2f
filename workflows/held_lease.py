"""The lease of one container as its workflow holds it: whose it is, until when, which token."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from greenroom.core.errors import FencedError
    from greenroom.core.messages import ReleaseRequest
    from greenroom.core.records import Lease
    from workflows import failures

GRANT_PATIENCE = timedelta(seconds=10)
"""How long a holder's Update waits for the keeper's ``claimed`` before it is a stranger's."""


class HeldLease:
    """At most one lease; ``lease`` is None until the keeper's ``claimed``.

    ``extending`` counts the extensions that are being written on the host.
    """

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.armed = False
        self.extending = 0
        self._early: ReleaseRequest | None = None

    def take(self, told: Lease) -> bool:
        """A grant; False for one that is not newer than what is held."""
        if self.lease is not None and told.token <= self.lease.token:
            return False
        self.lease = told
        return True

    def lengthen(self, lease: Lease, expires_at: float) -> None:
        """The host has written a later end for ``lease``; it never gets an earlier one."""
        held = self.lease or lease
        self.lease = held.model_copy(update={"expires_at": max(expires_at, held.expires_at)})

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

    def check_token(self, token: int) -> None:
        """Refuse a token that is not the lease's, as an ApplicationError of code ``fenced``."""
        if self.lease is not None and token != self.lease.token:
            error = FencedError(f"token {token} is not that of the live lease")
            raise failures.refusal(error)

    def seconds_left(self, now: float) -> float | None:
        """Until its end; None when there is no lease."""
        return None if self.lease is None else self.lease.expires_at - now
