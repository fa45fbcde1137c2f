"""The activities of one container, each with its time-outs, on its host's queue once it has one."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import options
    from greenroom.core.brought import Brought
    from greenroom.core.messages import ContainerInput, ExtendReply
    from greenroom.core.names import long_queue, place_queue
    from greenroom.core.orders import (
        ArmedLease,
        ArmInput,
        CreatedContainer,
        EndInput,
        ExtendInput,
        LastBeat,
        PlaceInput,
        Placement,
        SlotRef,
        WarnInput,
    )
    from greenroom.core.records import Done, Lease, SavedWork, StepRecord
    from greenroom.core.task_messages import HookInput, HookResult
    from workflows import failures


class OnHost:
    """Calls of one container's workflow. Every method raises ActivityError unless it says more."""

    def __init__(self, start: ContainerInput) -> None:
        self._start = start
        self._queue = place_queue()

    async def place(self) -> Placement:
        """Find a host; all later calls go there."""
        placement: Placement = await workflow.execute_activity(
            "place",
            PlaceInput(pool=self._start.pool, container=self._start.container),
            result_type=Placement,
            task_queue=place_queue(),
            **options.PLACE,
        )
        self._queue = placement.queue
        return placement

    async def create(self) -> CreatedContainer:
        """Make the container and start it."""
        created: CreatedContainer = await workflow.execute_activity(
            "create_container",
            self._start,
            result_type=CreatedContainer,
            task_queue=self._queue,
            summary=self._start.snapshot.image_tag,
            **options.CREATE,
        )
        return created

    def begin(self, name: str, limit_s: float) -> workflow.ActivityHandle[StepRecord]:
        """Start one step of preparing, which can be cancelled."""
        return workflow.start_activity(
            name,
            self._start,
            result_type=StepRecord,
            task_queue=self._queue,
            **options.preparing(limit_s),
        )

    async def arm(self, lease: Lease, brought: Brought | None) -> None:
        """Arming; code ``corpse`` when the container does not run, ``secret`` for a bad one."""
        sealed = brought.sealed if brought else {}
        names = brought.host_secrets if brought else ()
        await workflow.execute_activity(
            "arm_lease",
            ArmInput(lease=lease, sealed=sealed, host_secrets=names),
            result_type=ArmedLease,
            task_queue=self._queue,
            **(options.ARM_WITH_SECRETS if names else options.ARM),
        )

    async def hook(self, asked: HookInput) -> HookResult:
        """One line of the pool's claim hooks; a line that fails is an answer."""
        result: HookResult = await workflow.execute_activity(
            "run_hook",
            asked,
            result_type=HookResult,
            task_queue=long_queue(self._queue),
            summary=asked.line[:100],
            **options.RUN,
        )
        return result

    def begin_warning(self, lease: Lease) -> workflow.ActivityHandle[Done]:
        """Start telling the holder that the lease ends soon."""
        told = WarnInput(
            pool=self._start.pool,
            container=self._start.container,
            token=lease.token,
            expires_at=lease.expires_at,
        )
        return workflow.start_activity(
            "warn_lease", told, result_type=Done, task_queue=self._queue, **options.GLANCE
        )

    def begin_beat_check(self) -> workflow.ActivityHandle[LastBeat]:
        """Start asking when the holder was last heard of."""
        slot = SlotRef(pool=self._start.pool, container=self._start.container)
        return workflow.start_activity(
            "last_beat", slot, result_type=LastBeat, task_queue=self._queue, **options.GLANCE
        )

    async def extend(self, lease: Lease, expires_at: float, *, hold: bool = False) -> ExtendReply:
        """Write a later end into the lease file. Raises ApplicationError with its code."""
        try:
            reply: ExtendReply = await workflow.execute_activity(
                "extend_lease",
                ExtendInput(
                    pool=self._start.pool,
                    container=self._start.container,
                    claim_id=lease.claim_id,
                    token=lease.token,
                    expires_at=expires_at,
                    hold=hold,
                ),
                result_type=ExtendReply,
                task_queue=self._queue,
                **options.ARM,
            )
        except ActivityError as error:
            cause = error.cause
            raise cause if isinstance(cause, ApplicationError) else error from error
        return reply

    async def close(self, end: EndInput) -> None:
        """Token refused, gate closed, processes killed, container stopped."""
        await self._clean("close_lease", end)

    async def remove(self) -> None:
        """Take the container away with everything around it."""
        slot = SlotRef(pool=self._start.pool, container=self._start.container)
        await self._clean("remove_container", slot)

    async def save(self, end: EndInput) -> SavedWork:
        """Keep the work; a failure is an answer too (``unsaved``)."""
        try:
            saved: SavedWork = await workflow.execute_activity(
                "save_work",
                end,
                result_type=SavedWork,
                task_queue=self._queue,
                **options.SAVE,
            )
        except ActivityError as error:
            failure = failures.from_activity(error, "save", workflow.now().timestamp())
            return SavedWork(state="unsaved", detail=failure.reason)
        return saved

    async def _clean(self, name: str, argument: EndInput | SlotRef) -> None:
        await workflow.execute_activity(
            name, argument, result_type=Done, task_queue=self._queue, **options.CLEAN
        )
