"""The keeper: the one workflow that owns a pool's ledger.

It observes (messages of clients, news of its children), asks ``core.plan`` what to do, and acts
through its outbox. No handler awaits anything, so that each is one step of the ledger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from activities import options
    from greenroom.core import keeper, leases, news, outline, plan, transfers, view
    from greenroom.core.errors import DrainingError, GreenroomError, LiveClaimsError, UsageError
    from greenroom.core.ledger import KeeperInput, Ledger
    from greenroom.core.lifecycle import EndReason
    from greenroom.core.messages import (
        CancelClaim,
        ClaimBatch,
        ClaimBatchReply,
        ClaimReply,
        ClaimRequest,
        ContainerNews,
        LeaseQuery,
        Queued,
        ReleaseRequest,
        TransferReply,
        TransferRequest,
    )
    from greenroom.core.names import place_queue, ulid
    from greenroom.core.orders import LookInput
    from greenroom.core.pool_messages import (
        ConfigureReply,
        ConfigureRequest,
        PoolStatus,
        Pushed,
        ResizeRequest,
        SnapshotNews,
        SuspendReply,
        SuspendRequest,
    )
    from greenroom.core.records import Failure, Lease, Source
    from greenroom.core.requests import refuse_plain
    from workflows import failures, outbox

UPDATES_PER_RUN = 1500
"""Below the 2,000 that a server with Temporal's defaults allows one run."""

T = TypeVar("T")


@workflow.defn(name="PoolKeeper")
class PoolKeeper:
    """See the module. Ends only when its pool is deleted."""

    @workflow.init
    def __init__(self, start: KeeperInput) -> None:
        self._ledger = start.ledger or Ledger(pool=start.pool, config=start.config)
        self._created = start.ledger is None
        self._looking = False
        self._draining = False
        self._handoff = False
        self._changed = True
        self._updates = 0
        self._sender = outbox.Sender(self._ledger, self._delivered)
        self._tasks: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at: float | None = None

    @workflow.run
    async def run(self, start: KeeperInput) -> None:
        workflow.upsert_search_attributes(outbox.pool_attributes(start.pool))
        while not self._is_over():
            wake_at = self._step()
            await self._sleep_until(wake_at)
            if self._handoff_due():
                await self._hand_over()
        await self._settle()

    # ── the loop ─────────────────────────────────────────────────────────────────────────────

    def _step(self) -> float | None:
        """Act until the plan has nothing more to do; returns when to look again by itself."""
        self._changed = False
        now = self._now()
        leases.grant_waiting(self._ledger, now)  # a quota may have room, or the pool file changed
        decision = plan.decide(keeper.facts(self._ledger, looking=self._looking), now)
        while decision.actions:
            for action in decision.actions:
                if isinstance(action, plan.Look):
                    self._look()
                keeper.enact(self._ledger, action, now, self._new_ids())
            decision = plan.decide(keeper.facts(self._ledger, looking=self._looking), now)
        self._sender.pump()
        status = view.status(self._ledger, now, looking=self._looking, with_containers=False)
        workflow.set_current_details(outline.pool_details(status))
        return decision.wake_at

    async def _sleep_until(self, wake_at: float | None) -> None:
        self._set_alarm(wake_at)
        await workflow.wait_condition(lambda: self._changed or self._handoff_due())

    def _set_alarm(self, wake_at: float | None) -> None:
        """Be woken by ``wake_at``; an alarm that rings earlier stays, and costs one look.

        A timer for each step would be a third of the history.
        """
        if wake_at is None or (self._alarm_at is not None and self._alarm_at <= wake_at):
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = wake_at
        self._alarm = asyncio.create_task(self._ring(wake_at))

    async def _ring(self, wake_at: float) -> None:
        seconds = max(0.0, wake_at - self._now())
        await workflow.sleep(seconds, summary="until the plan could change by itself")
        self._alarm_at = None
        self._changed = True

    def _handoff_due(self) -> bool:
        many = workflow.info().is_continue_as_new_suggested() or self._updates >= UPDATES_PER_RUN
        return (many or self._handoff) and not self._looking

    async def _hand_over(self) -> None:
        """Continue as new once nothing of this run is on its way (shared rule of the outbox).

        Newcomers are refused by the validators meanwhile and come again with the same id.
        """
        self._draining = True
        await self._settle()
        self._ledger.fit_budget()
        start = KeeperInput(pool=self._ledger.pool, config=self._ledger.config, ledger=self._ledger)
        workflow.continue_as_new(start)

    async def _settle(self) -> None:
        """Send what is in the outbox, and plan nothing new: a look could take minutes."""
        while not self._settled():
            self._changed = False
            self._sender.pump()
            await workflow.wait_condition(lambda: self._changed or self._settled())

    def _settled(self) -> bool:
        idle = not self._ledger.outbox and not self._sender.busy and not self._looking
        return idle and workflow.all_handlers_finished()

    def _is_over(self) -> bool:
        ledger = self._ledger
        gone = not ledger.slots and not ledger.queue and ledger.build is None
        return ledger.suspended is EndReason.DELETED and gone

    def _delivered(self, failed: outbox.Undeliverable | None) -> None:
        if failed is not None:
            news.undeliverable(self._ledger, failed.entry, self._now())
        self._changed = True

    def _look(self) -> None:
        self._looking = True
        self._ledger.look = False
        task = asyncio.create_task(self._find_source())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _find_source(self) -> None:
        generation = self._ledger.generation
        found: Source | Failure
        try:
            found = await workflow.execute_activity(
                "look",
                LookInput(pool=self._ledger.pool, config=self._ledger.config),
                result_type=Source,
                task_queue=place_queue(),
                summary=f"look at {self._ledger.config.ref}",
                **options.LOOK,
            )
        except ActivityError as error:
            found = failures.from_activity(error, "source", self._now())
        news.hear_source(self._ledger, found, generation, self._now())
        self._looking = False
        self._changed = True

    # ── claims ───────────────────────────────────────────────────────────────────────────────

    @workflow.update(name="claim")
    def claim(self, request: ClaimRequest) -> ClaimReply:
        """Grant, queue or refuse (``core.leases.claim``)."""
        self._updates += 1
        return self._apply(lambda now: leases.claim(self._ledger, request, now))

    @claim.validator
    def _check_claim(self, request: ClaimRequest) -> None:
        self._refuse_while_draining()
        self._refusing(lambda: leases.check_request(self._ledger, request))

    @workflow.update(name="claims")
    def claims(self, batch: ClaimBatch) -> ClaimBatchReply:
        """Several callers' claims, each with an answer of its own; in the order they stand."""
        self._updates += 1
        answer_all = lambda now: leases.claim_each(self._ledger, batch, now)  # noqa: E731
        return self._apply(answer_all)

    @claims.validator
    def _check_claims(self, batch: ClaimBatch) -> None:
        self._refuse_while_draining()
        for request in batch.requests:  # an accepted batch would stand in the history as it is
            self._refusing(partial(refuse_plain, request))

    @workflow.update(name="transfer")
    def transfer(self, request: TransferRequest) -> TransferReply:
        """Give a lease another holder (``core.transfers``)."""
        self._updates += 1
        return self._apply(lambda _: transfers.transfer(self._ledger, request))

    @transfer.validator
    def _check_transfer(self, request: TransferRequest) -> None:
        self._refuse_while_draining()
        self._refusing(lambda: transfers.check(self._ledger, request))

    @workflow.signal(name="claim")
    def claim_by_signal(self, request: ClaimRequest) -> None:
        """A claim whose answer is the result of its ``Wait`` workflow."""
        self._signalled(lambda now: leases.claim_with_wait(self._ledger, request, now))

    @workflow.signal(name="release")
    def release(self, request: ReleaseRequest) -> None:
        """End a lease by claim id and token."""
        self._signalled(lambda now: leases.release(self._ledger, request, now))

    @workflow.signal(name="cancel")
    def cancel(self, request: CancelClaim) -> None:
        """Take a waiting claim out of the queue."""
        self._signalled(lambda now: leases.cancel(self._ledger, request, now))

    # ── the pool ─────────────────────────────────────────────────────────────────────────────

    @workflow.update(name="configure")
    def configure(self, request: ConfigureRequest) -> ConfigureReply:
        """Take a pool file."""
        self._updates += 1
        created, self._created = self._created, False
        reply = self._apply(lambda _: keeper.configure(self._ledger, request))
        return reply.model_copy(update={"created": created})

    @configure.validator
    def _check_configure(self, request: ConfigureRequest) -> None:
        self._refuse_while_draining()
        if request.config.name != self._ledger.pool:
            message = f"pool {self._ledger.pool} cannot become {request.config.name}"
            raise failures.refusal(UsageError(message))

    @workflow.update(name="resize")
    def resize(self, request: ResizeRequest) -> ConfigureReply:
        """Change the pool's size only."""
        self._updates += 1
        config = keeper.resized(self._ledger.config, request.min, request.max)
        change = ConfigureRequest(config=config)
        return self._apply(lambda _: keeper.configure(self._ledger, change))

    @resize.validator
    def _check_resize(self, request: ResizeRequest) -> None:
        self._refuse_while_draining()
        try:
            keeper.resized(self._ledger.config, request.min, request.max)
        except ValueError as error:
            raise failures.refusal(UsageError(f"size is wrong: {error}")) from error

    @workflow.update(name="suspend")
    def suspend(self, request: SuspendRequest) -> SuspendReply:
        """Retire what can be, for ``down`` or ``delete``."""
        self._updates += 1
        return self._apply(lambda now: keeper.suspend(self._ledger, request, now))

    @suspend.validator
    def _check_suspend(self, request: SuspendRequest) -> None:
        self._refuse_while_draining()
        live = keeper.live_claims(self._ledger)
        if live and not request.force:
            message = f"pool {self._ledger.pool} has live claims: {', '.join(live)}"
            raise failures.refusal(LiveClaimsError(message, claims=",".join(live)))

    @workflow.signal(name="pushed")
    def pushed(self, push: Pushed) -> None:
        """Something was pushed, or a refresh is wanted."""
        self._signalled(lambda _: keeper.look_again(self._ledger, force=push.force))

    @workflow.signal(name="pause")
    def pause(self) -> None:
        """Prepare nothing new; ready containers can still be claimed."""
        self._ledger.paused = self._changed = True

    @workflow.signal(name="resume")
    def resume(self) -> None:
        """End ``pause``."""
        self._ledger.paused = False
        self._changed = True

    @workflow.signal(name="handoff")
    def handoff(self) -> None:
        """Continue as new at the next chance, for example to shorten the history by hand."""
        self._handoff = True

    # ── news of the children ─────────────────────────────────────────────────────────────────

    @workflow.signal(name="news")
    def container_news(self, told: ContainerNews) -> None:
        """A container's step."""
        self._signalled(lambda now: news.hear_container(self._ledger, told, now))

    @workflow.signal(name="snapshot_news")
    def snapshot_news(self, told: SnapshotNews) -> None:
        """A build's end."""
        self._signalled(lambda now: news.hear_snapshot(self._ledger, told, now))

    # ── queries ──────────────────────────────────────────────────────────────────────────────

    @workflow.query(name="status")
    def status(self) -> PoolStatus:
        """What people and programs see of the pool."""
        return view.status(self._ledger, self._now(), looking=self._looking)

    @workflow.query(name="lease")
    def lease(self, query: LeaseQuery) -> Lease | None:
        """The live lease of a claim."""
        slot = self._ledger.slot_of(query.claim_id)
        return slot.lease if slot else None

    @workflow.query(name="queued")
    def queued(self, query: LeaseQuery) -> Queued | None:
        """The place of a claim in the queue."""
        return leases.place_in_queue(self._ledger, query.claim_id, self._now())

    # ── small parts ──────────────────────────────────────────────────────────────────────────

    def _apply(self, change: Callable[[float], T]) -> T:
        self._changed = True
        return self._refusing(lambda: change(self._now()))

    def _signalled(self, change: Callable[[float], object]) -> None:
        """A Signal has nobody to refuse to: what is wrong with it goes to the log."""
        try:
            self._apply(change)
        except ApplicationError as error:
            workflow.logger.warning("signal refused: %s", error.message)

    def _refusing(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except GreenroomError as error:
            raise failures.refusal(error) from error

    def _refuse_while_draining(self) -> None:
        if self._draining:
            raise failures.refusal(DrainingError("the keeper is handing over; ask again"))

    def _now(self) -> float:
        return workflow.now().timestamp()

    def _new_ids(self) -> Iterator[str]:
        while True:
            yield ulid(self._now(), workflow.random().getrandbits(80))
