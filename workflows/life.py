"""What a container's workflow knows of its container, and its line to the keeper."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from greenroom.core.lifecycle import EndReason, State
    from greenroom.core.messages import ContainerInput, ContainerNews, NewsKind
    from greenroom.core.names import keeper_id
    from greenroom.core.records import Failure, SavedWork
    from workflows.after_claim import AfterClaim
    from workflows.held_lease import HeldLease
    from workflows.on_host import OnHost
    from workflows.outbox import HOST, STATE

T = TypeVar("T")


class Life:
    """One container from its creation to its end. ``end`` is set once, and says why it ends.

    ``gone``: the host says that it does not run any more; ``corpse``: it did so before its claim
    could use it, and the claim gets another one.
    """

    def __init__(self, start: ContainerInput) -> None:
        self.start = start
        self.on_host = OnHost(start)
        self.held = HeldLease(start.config.lease)
        self.after = AfterClaim(start, self.on_host)
        self.state = State.CREATING
        self.host = ""
        self.docker_id = ""
        self.gone = False
        self.corpse = False
        self.end: EndReason | None = None
        self.failure: Failure | None = None
        self.saved: SavedWork | None = None
        self._sent_seq = 0
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def telling(self) -> bool:
        """Whether news is still on its way to the keeper."""
        return bool(self._telling)

    @property
    def is_retired(self) -> bool:
        return self.state is State.RETIRED

    async def unless_ended(self, step: workflow.ActivityHandle[T]) -> T:
        """The activity's result; being ended cancels it. Raises ActivityError."""
        await workflow.wait_condition(lambda: step.done() or self.end is not None)
        if not step.done():
            step.cancel()
        return await step

    async def tell(self, kind: NewsKind, reason: EndReason | None = None) -> None:
        """Send news to the keeper; a keeper that is gone ends a container that nobody holds."""
        self._sent_seq += 1
        lease = self.held.lease
        told = ContainerNews(
            container=self.start.container,
            seq=self._sent_seq,
            kind=kind,
            at=now(),
            host=self.host,
            docker_id=self.docker_id,
            expires_at=lease.expires_at if lease else 0.0,
            held=lease is not None and lease.held,
            reason=reason,
            failure=self.failure,
            saved=self.saved,
        )
        keeper = workflow.get_external_workflow_handle(keeper_id(self.start.pool))
        try:
            await keeper.signal("news", told)
        except ApplicationError as error:
            workflow.logger.warning("keeper not told of %s: %s", kind, error.message)
            if lease is None and self.end is None:
                self.end = EndReason.LOST

    def tell_soon(self, kind: NewsKind) -> None:
        """Send news while the next step goes on; ``seq`` keeps their order."""
        task = asyncio.create_task(self.tell(kind))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def attributes(self, state: State) -> list[SearchAttributeUpdate]:  # type: ignore[type-arg]
        """What the workflow is found by from now on."""
        return [STATE.value_set(state), HOST.value_set(self.host)]


def now() -> float:
    """The workflow's own time, in epoch seconds."""
    return workflow.now().timestamp()
