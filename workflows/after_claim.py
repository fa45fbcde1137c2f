"""What follows arming: the claim's hooks, and word to the workflow that made the claim."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from greenroom.core.brought import Brought
    from greenroom.core.messages import ArmedNews, ContainerInput, ReleaseReply
    from greenroom.core.records import Lease
    from greenroom.core.task_messages import HookInput, HookResult, told
    from workflows import failures
    from workflows.on_host import OnHost


class AfterClaim:
    """Of one container. A claim without hooks and ``reply_to`` costs nothing here.

    ``brought`` comes with the grant. What follows arming belongs to the claim, not to its token: a
    transfer changes nothing here.
    """

    def __init__(self, start: ContainerInput, on_host: OnHost) -> None:
        self._hooks = start.config.hooks
        self._limit_s = start.config.timeouts.hook
        self._on_host = on_host
        self.brought: Brought | None = None
        self._running: asyncio.Task[None] | None = None
        self._over = False
        self.failed: HookResult | None = None

    @property
    def ready(self) -> bool:
        """Whether commands may run, as the pool's ``hooks.wait_for`` says."""
        return self._over or not self._hooks.claim or self._hooks.wait_for == "ready"

    async def begin(self, lease: Lease) -> None:
        """The claim is armed, for the first time."""
        if self._hooks.claim:
            self._running = asyncio.create_task(self._run(lease))
        if self.ready:
            await self._tell_armed(lease)

    def stop(self) -> None:
        """The lease is ending, and its hooks with it."""
        if self._running is not None:
            self._running.cancel()

    async def tell_ended(self, reply: ReleaseReply) -> None:
        """The lease has ended."""
        if self.brought is not None and self.brought.reply_to:
            await self._tell(self.brought.reply_to, "ended", reply)

    async def _run(self, lease: Lease) -> None:
        waited_for = not self.ready
        for index, line in enumerate(self._hooks.claim):
            result = await self._hook(lease, index, line)
            if result.failed:
                self.failed = result
                break
        self._over = True
        if waited_for:
            await self._tell_armed(lease)

    async def _hook(self, lease: Lease, index: int, line: str) -> HookResult:
        asked = HookInput(
            lease=lease,
            index=index,
            line=line,
            limit_s=self._limit_s,
            brings=self.brought is not None and self.brought.brings,
            last=index + 1 == len(self._hooks.claim),
        )
        try:
            return await self._on_host.hook(asked)
        except ActivityError as error:
            failure = failures.from_activity(error, "hook", workflow.now().timestamp())
            return HookResult(index=index, line=line, detail=failure.reason, tail=failure.tail)

    async def _tell_armed(self, lease: Lease) -> None:
        if self.brought is not None and self.brought.reply_to:
            failed = told(self.failed) if self.failed else ""
            news = ArmedNews(claim_id=lease.claim_id, token=lease.token, failed_hook=failed)
            await self._tell(self.brought.reply_to, "armed", news)

    async def _tell(self, receiver: str, name: str, news: ArmedNews | ReleaseReply) -> None:
        try:
            await workflow.get_external_workflow_handle(receiver).signal(name, news)
        except ApplicationError as error:
            workflow.logger.warning("%s not told: %s", receiver, error.message)
