"""Workflows that do not do what the recorded ones did; the replay test must find them out."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import options
    from greenroom.core.lifecycle import EndReason
    from greenroom.core.messages import ContainerInput, WaitInput, WaitVerdict
    from greenroom.core.orders import FoundSnapshot
    from greenroom.core.pool_messages import SnapshotInput, SnapshotNews
    from greenroom.core.records import SnapshotRecord
    from workflows.container import Container
    from workflows.snapshot import Snapshot
    from workflows.wait import Wait


@workflow.defn(name="Container")
class ContainerAsItIs(Container):
    """The control: being a subclass is not what is found out."""

    @workflow.init
    def __init__(self, start: ContainerInput) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: ContainerInput) -> str:
        return await super().run(start)


@workflow.defn(name="Container")
class ContainerThatWaits(Container):
    """A timer before anything else."""

    @workflow.init
    def __init__(self, start: ContainerInput) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: ContainerInput) -> str:
        return await super().run(start)

    async def _prepare(self) -> bool:
        await workflow.sleep(timedelta(seconds=1))
        return await super()._prepare()


@workflow.defn(name="Snapshot")
class SnapshotThatLooksTwice(Snapshot):
    """One activity more."""

    @workflow.init
    def __init__(self, start: SnapshotInput) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: SnapshotInput) -> SnapshotNews:
        return await super().run(start)

    async def _build(self) -> SnapshotRecord:
        await self._do("find_snapshot", self._start, FoundSnapshot, options.LOOK)
        return await super()._build()


@workflow.defn(name="Wait")
class WaitThatTells(Wait):
    """It gives up without asking the keeper."""

    @workflow.init
    def __init__(self, start: WaitInput) -> None:
        super().__init__(start)

    @workflow.run
    async def run(self, start: WaitInput) -> WaitVerdict:
        return await super().run(start)

    async def _give_up(self, reason: EndReason) -> WaitVerdict:
        return WaitVerdict(reason=reason)
