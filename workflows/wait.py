"""A queued claim, or one made by Signal: its result is the lease, or why there is none."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from greenroom.core.lifecycle import EndReason
    from greenroom.core.messages import WaitInput, WaitVerdict
    from workflows.claimant import Claimant
    from workflows.outbox import CLAIM


@workflow.defn(name="Wait")
class Wait(Claimant):
    """See the module. Cancelling it cancels the claim."""

    @workflow.init
    def __init__(self, start: WaitInput) -> None:
        super().__init__(start.pool, start.request.claim_id)

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
