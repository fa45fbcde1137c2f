"""What every workflow does that waits for a claim's verdict: ``Wait`` and ``Task``."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from greenroom.core.lifecycle import EndReason
    from greenroom.core.messages import CancelClaim, ReleaseRequest, WaitVerdict
    from greenroom.core.names import keeper_id

ASK_AGAIN = timedelta(seconds=15)


class Claimant:
    """Base of those workflows. ``reply_to``: where the keeper tells them, when not as a Wait."""

    def __init__(self, pool: str, claim_id: str, reply_to: str = "") -> None:
        self._pool = pool
        self._claim_id = claim_id
        self._reply_to = reply_to
        self._verdict: WaitVerdict | None = None
        self._withdrawn: WaitVerdict | None = None

    @workflow.signal(name="verdict")
    def verdict(self, verdict: WaitVerdict) -> None:
        """The keeper's answer; the latest grant counts (a dead container is replaced).

        A refusal after a grant: while it waited for such a replacement, its pool was stopped.
        """
        if self._verdict is None or verdict.granted():
            self._verdict = verdict
        else:
            self._withdrawn = verdict

    async def _heard(self, patience: timedelta) -> WaitVerdict | None:
        try:
            await workflow.wait_condition(lambda: self._verdict is not None, timeout=patience)
        except TimeoutError:
            return None
        return self._verdict

    async def _give_up(self, reason: EndReason) -> WaitVerdict:
        """Ask the keeper to take the claim out of its queue, until it says what became of it."""
        keeper = workflow.get_external_workflow_handle(keeper_id(self._pool))
        request = CancelClaim(claim_id=self._claim_id, reason=reason, reply_to=self._reply_to)
        while True:
            try:
                await keeper.signal("cancel", request)
            except ApplicationError as error:
                return WaitVerdict(reason=EndReason.LOST, detail=error.message)
            if reason is not EndReason.CANCELLED:
                notice_cancelling()
            verdict = await self._heard(ASK_AGAIN)
            if verdict is not None:
                return verdict

    async def _give_back(self, verdict: WaitVerdict) -> None:
        """Release every lease that was granted; nobody has used them."""
        keeper = workflow.get_external_workflow_handle(keeper_id(self._pool))
        for lease in verdict.granted():
            release = ReleaseRequest(
                claim_id=lease.claim_id, token=lease.token, reason=EndReason.CANCELLED, save=False
            )
            try:
                await keeper.signal("release", release)
            except ApplicationError as error:
                workflow.logger.warning("keeper is gone: %s", error.message)


def notice_cancelling() -> None:
    """Raise CancelledError in a cancelled workflow: the SDK's Signals swallow it on their way."""
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError
