"""One host's watch: Docker's events become Signals, and what belongs to nobody is swept."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from activities import options
    from greenroom.core.pool_messages import HostInput
    from greenroom.core.records import Done
    from workflows.outbox import HOST

WATCHES_PER_RUN = 20


@workflow.defn(name="Host")
class Host:
    """Runs for ever: one long heartbeating activity after the other."""

    @workflow.run
    async def run(self, start: HostInput) -> None:
        workflow.upsert_search_attributes([HOST.value_set(start.host)])
        for _ in range(WATCHES_PER_RUN):
            try:
                await workflow.execute_activity(
                    "watch",
                    start,
                    result_type=Done,
                    task_queue=start.queue,
                    summary=f"events of {start.host}",
                    **options.WATCH,
                )
            except ActivityError as error:
                workflow.logger.warning("watch ended: %s", error.cause)
        workflow.continue_as_new(start)
