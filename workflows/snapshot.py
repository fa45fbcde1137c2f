"""Builds one snapshot: builder, lines, commit, verified as users get it, then tagged."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import options
    from greenroom.core.messages import Ask
    from greenroom.core.names import keeper_id, place_queue
    from greenroom.core.news import CANCELLED_STEP
    from greenroom.core.orders import (
        BuilderCommit,
        BuilderRef,
        BuilderStep,
        BuilderStepName,
        CommittedImage,
        FoundSnapshot,
        PlaceInput,
        Placement,
        TagInput,
        VerifiedImage,
        VerifyInput,
    )
    from greenroom.core.pool_messages import SnapshotInput, SnapshotNews
    from greenroom.core.records import Done, Failure, Message, SnapshotRecord, StepRecord
    from workflows import failures

T = TypeVar("T", bound=Message)


class _StoppedError(Exception):
    """The build was stopped between two of its steps."""


@workflow.defn(name="Snapshot")
class Snapshot:
    """See the module. Its result is the news that its keeper was sent."""

    @workflow.init
    def __init__(self, start: SnapshotInput) -> None:
        self._start = start
        self._queue = place_queue()
        self._builder: BuilderRef | None = None
        self._work: asyncio.Task[SnapshotRecord] | None = None
        self._stopped = False

    @workflow.run
    async def run(self, start: SnapshotInput) -> SnapshotNews:
        source = start.source
        news = SnapshotNews(fingerprint=source.fingerprint)
        try:
            self._work = asyncio.create_task(self._build())
            news = news.model_copy(update={"record": await self._work})
        except (ActivityError, _StoppedError) as error:
            news = news.model_copy(update={"failure": self._failure(error)})
        finally:
            if self._builder is not None:
                await self._do("remove_builder", self._builder, Done, options.CLEAN)
        keeper = workflow.get_external_workflow_handle(keeper_id(start.pool))
        try:
            await keeper.signal("snapshot_news", news)
        except ApplicationError as error:
            workflow.logger.warning("keeper not told: %s", error.message)
        return news

    @workflow.signal(name="stop")
    def stop(self, told: Ask) -> None:
        """The snapshot is not wanted any more: end the step that runs and clean up.

        It may come before the first step has begun, or while one runs that ends all the same.
        """
        self._stopped = True
        if self._work is not None:
            self._work.cancel()

    @workflow.signal(name="ask")
    def ask(self, told: Ask) -> None:
        """The keeper wants to know whether this build is still there; being signalled is enough."""

    def _failure(self, error: ActivityError | _StoppedError) -> Failure:
        """Whatever the step that was cut off says, a build that was stopped has not failed."""
        now = workflow.now().timestamp()
        if self._stopped or isinstance(error, _StoppedError):
            reason = "stopped: not wanted any more"
            return Failure(step=CANCELLED_STEP, reason=reason, at=now, permanent=False)
        return failures.from_activity(error, "build", now)

    async def _build(self) -> SnapshotRecord:
        start = self._start
        began = workflow.now().timestamp()
        placed = await self._do(
            "place",
            PlaceInput(pool=start.pool, container=start.source.fingerprint),
            Placement,
            options.PLACE,
        )
        self._queue = placed.queue
        found = await self._do("find_snapshot", start, FoundSnapshot, options.LOOK)
        if found.record is not None:
            return found.record
        self._builder = await self._do("start_builder", start, BuilderRef, options.CREATE)
        steps = [await self._step(self._builder, *step) for step in self._lines()]
        commit = BuilderCommit(builder=self._builder, snapshot=start)
        image = await self._do("commit_builder", commit, CommittedImage, options.LOOK)
        verify = VerifyInput(snapshot=start, image=image)
        limit = start.config.timeouts.verify * max(1, len(start.config.verify))
        verified = await self._do("verify_image", verify, VerifiedImage, options.preparing(limit))
        record = (*steps, *verified.steps)
        tag = TagInput(snapshot=start, image=image, steps=record, started_at=began)
        return await self._do("tag_snapshot", tag, SnapshotRecord, options.LOOK)

    def _lines(self) -> list[tuple[BuilderStepName, int, float]]:
        """Step, index and time limit (seconds) of every line in the order in which they run."""
        config, source = self._start.config, self._start.source
        limits = config.timeouts
        return [
            *(("system", index, limits.system) for index in range(len(config.system))),
            ("clone", 0, limits.clone),
            *(("install", index, limits.install) for index in range(len(source.install))),
            *(("build", index, limits.build) for index in range(len(config.build))),
        ]

    async def _step(
        self, builder: BuilderRef, name: BuilderStepName, index: int, limit: float
    ) -> StepRecord:
        step = BuilderStep(builder=builder, step=name, index=index, snapshot=self._start)
        return await self._do("builder_step", step, StepRecord, options.preparing(limit))

    async def _do(
        self, name: str, argument: Message, result: type[T], how: options.ActivityOptions
    ) -> T:
        if self._stopped and how is not options.CLEAN:
            raise _StoppedError
        summary = f"{argument.step} {argument.index}" if isinstance(argument, BuilderStep) else None
        answer: T = await workflow.execute_activity(
            name, argument, result_type=result, task_queue=self._queue, summary=summary, **how
        )
        return answer
