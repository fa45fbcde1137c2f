"""A queued claim, or one made by Signal: its result is the lease, or why there is none."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from greenroom.core.lifecycle import EndReason
    from greenroom.core.messages import CancelClaim, ReleaseRequest, WaitInput, WaitVerdict
    from greenroom.core.names import keeper_id
    from workflows.outbox import CLAIM

ASK_AGAIN = timedelta(seconds=15)


@workflow.defn(name="Wait")
class Wait:
    """See the module. Cancelling it cancels the claim."""

    @workflow.init
    def __init__(self, start: WaitInput) -> None:
        self._start = start
        self._verdict: WaitVerdict | None = None

    @workflow.run
    async def run(self, start: WaitInput) -> WaitVerdict:
        workflow.upsert_search_attributes([CLAIM.value_set(start.request.claim_id)])
        try:
            verdict = await self._heard(timedelta(seconds=start.request.wait_s))
            return verdict or await self._give_up(EndReason.TIMED_OUT)
        except asyncio.CancelledError:
            # Cancelled from outside: the keeper decides whether it came in time.
            verdict = self._verdict or await self._give_up(EndReason.CANCELLED)
            await self._give_back(verdict)
            raise

    @workflow.signal(name="verdict")
    def verdict(self, verdict: WaitVerdict) -> None:
        """The keeper's answer; the latest grant counts (a dead container is replaced)."""
        if self._verdict is None or verdict.granted():
            self._verdict = verdict

    async def _heard(self, patience: timedelta) -> WaitVerdict | None:
        try:
            await workflow.wait_condition(lambda: self._verdict is not None, timeout=patience)
        except TimeoutError:
            return None
        return self._verdict

    async def _give_up(self, reason: EndReason) -> WaitVerdict:
        """Ask the keeper to take the claim out of its queue, until it says what became of it."""
        keeper = workflow.get_external_workflow_handle(keeper_id(self._start.pool))
        request = CancelClaim(claim_id=self._start.request.claim_id, reason=reason)
        while True:
            try:
                await keeper.signal("cancel", request)
            except ApplicationError as error:
                return WaitVerdict(reason=EndReason.LOST, detail=error.message)
            verdict = await self._heard(ASK_AGAIN)
            if verdict is not None:
                return verdict

    async def _give_back(self, verdict: WaitVerdict) -> None:
        keeper = workflow.get_external_workflow_handle(keeper_id(self._start.pool))
        for lease in verdict.granted():
            release = ReleaseRequest(
                claim_id=lease.claim_id, token=lease.token, reason=EndReason.CANCELLED, save=False
            )
            try:
                await keeper.signal("release", release)
            except ApplicationError as error:
                workflow.logger.warning("keeper is gone: %s", error.message)
