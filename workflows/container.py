"""One container's whole life, durable: made ready, perhaps claimed once, and always retired.

This workflow owns the lease of its container: it alone ends it, and the keeper only asks.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from greenroom.core.errors import FencedError, GreenroomError, NotFoundError
    from greenroom.core.lifecycle import EndReason, State
    from greenroom.core.messages import (
        ArmReply,
        ArmRequest,
        Ask,
        Brought,
        Claimed,
        ContainerInput,
        ContainerNews,
        Died,
        ExtendReply,
        ExtendRequest,
        NewsKind,
        ReleaseReply,
        ReleaseRequest,
        Retire,
    )
    from greenroom.core.names import keeper_id
    from greenroom.core.orders import EndInput
    from greenroom.core.records import Failure, Lease, SavedWork
    from greenroom.core.task_messages import told as told_of
    from workflows import failures
    from workflows.after_claim import AfterClaim
    from workflows.on_host import OnHost
    from workflows.outbox import CLAIM, HOST, STATE

UNSAVED_KEPT = timedelta(hours=24)
"""How long a stopped container stays whose work could not be saved."""

SEEN = timedelta(seconds=1)
"""A step of preparing that takes longer is told to the keeper while it goes on."""

GRANT_PATIENCE = timedelta(seconds=10)
"""How long a holder's Update waits for the keeper's ``claimed`` before it is a stranger's."""


@workflow.defn(name="Container")
class Container:
    """See the module. Its result is how it ended."""

    @workflow.init
    def __init__(self, start: ContainerInput) -> None:
        self._start = start
        self._state = State.CREATING
        self._on_host = OnHost(start)
        self._after = AfterClaim(start, self._on_host)
        self._brought: Brought | None = None
        self._host = ""
        self._docker_id = ""
        self._lease: Lease | None = None
        self._armed = False
        self._gone = False
        self._corpse = False
        self._end: EndReason | None = None
        self._save = True
        self._saved: SavedWork | None = None
        self._failure: Failure | None = None
        self._sent_seq = 0
        self._asked = False
        self._extending = 0
        self._early_release: ReleaseRequest | None = None
        self._telling: set[asyncio.Task[None]] = set()

    @workflow.run
    async def run(self, start: ContainerInput) -> str:
        if await self._prepare():
            await self._serve()
        reason = self._end or EndReason.LOST
        await self._finish(reason)
        await workflow.wait_condition(
            lambda: workflow.all_handlers_finished() and not self._telling
        )
        # With the command that closes the workflow, so that it costs no task of its own.
        workflow.upsert_search_attributes(self._attributes(State.RETIRED))
        return str(reason)

    # ── preparing ────────────────────────────────────────────────────────────────────────────

    async def _prepare(self) -> bool:
        """From nothing to ready; False when it failed or was ended on the way."""
        try:
            await self._create()
            for name, limit in self._steps():
                if self._end is not None:
                    return False
                await self._interruptible(name, limit)
                self._state = State.INSTALLING if name == "clone_in" else State.READY
        except ActivityError as error:
            if self._end is None:
                self._failure = failures.from_activity(error, self._state, self._now())
                self._end = EndReason.FAILED
            return False
        if self._end is None:
            self._tell_soon("installed")
            workflow.upsert_search_attributes(self._attributes(State.READY))
        return self._end is None

    def _steps(self) -> tuple[tuple[str, float], ...]:
        timeouts, sync = self._start.config.timeouts, self._start.snapshot.source.sync
        return (
            ("clone_in", timeouts.clone),
            ("install_in", timeouts.install * max(1, len(sync))),
        )

    async def _create(self) -> None:
        self._host = (await self._on_host.place()).host
        self._docker_id = (await self._on_host.create()).docker_id
        self._state = State.CLONING

    async def _interruptible(self, name: str, limit: float) -> None:
        """Run one step; being ended cancels it. Raises ActivityError.

        The keeper hears of a step that takes long enough to be seen: two Signals less for each
        container whose snapshot is up to date.
        """
        step = self._on_host.begin(name, limit)
        over = lambda: step.done() or self._end is not None  # noqa: E731
        try:
            await workflow.wait_condition(over, timeout=SEEN, timeout_summary=f"a long {name}")
        except TimeoutError:
            self._tell_soon("created" if self._state is State.CLONING else "cloned")
            await workflow.wait_condition(over)
        if not step.done():
            step.cancel()
        await step

    # ── ready and claimed ────────────────────────────────────────────────────────────────────

    async def _serve(self) -> None:
        """Wait for a claim, arm it, and wait for its end."""
        while self._end is None:
            if self._lease is not None and (self._gone or not self._armed):
                await self._arm(self._lease)
                continue
            if self._gone:
                self._end = EndReason.DIED
                return
            if self._asked:
                self._asked = False
                await self._tell("alive")
                continue
            left = None if self._lease is None else self._lease.expires_at - self._now()
            if left is not None and left <= 0 and not self._extending:
                self._end = EndReason.EXPIRED
                return
            await self._something(left)

    async def _something(self, left: float | None) -> None:
        lease = self._lease
        # Past its time only while it is being extended: the host may have the new time already.
        overdue = left is not None and left <= 0
        with suppress(TimeoutError):  # the caller compares the time with the lease's end
            await workflow.wait_condition(
                lambda: (
                    self._end is not None
                    or self._lease is not lease
                    or self._gone
                    or self._asked
                    or (overdue and not self._extending)
                ),
                timeout=None if left is None or overdue else timedelta(seconds=left),
                timeout_summary="end of the lease",
            )

    async def _arm(self, lease: Lease) -> None:
        """The durable driver of arming; does nothing where the API was quicker.

        A container that is not running and was never armed is a corpse: the keeper gives the
        claim another one. One that was armed has died in its holder's hands.
        """
        try:
            await self._on_host.arm(lease, self._brought)
        except ActivityError as error:
            wrong = self._brought is not None and failures.code_of(error) in {"secret", "usage"}
            self._end = self._end or (EndReason.REFUSED if wrong else EndReason.DIED)
            if failures.code_of(error) == "corpse":
                self._corpse = True
                await self._tell("corpse")
            else:
                self._failure = failures.from_activity(error, "arm", self._now())
            return
        if self._gone:
            self._end = self._end or EndReason.DIED
            return
        self._armed = True
        workflow.upsert_search_attributes(
            [STATE.value_set(State.CLAIMED), CLAIM.value_set(lease.claim_id)]
        )
        await self._after.begin(lease, self._brought)

    # ── the end ──────────────────────────────────────────────────────────────────────────────

    async def _finish(self, reason: EndReason) -> None:
        """Token refused and gate closed, stopped, saved, removed, and the keeper told."""
        self._after.stop()
        lease = None if self._corpse else self._lease
        end = EndInput(
            pool=self._start.pool,
            container=self._start.container,
            claim_id=lease.claim_id if lease else "",
            token=lease.token if lease else 0,
            reason=reason,
            save=self._save and reason is not EndReason.REFUSED,
        )
        if lease is not None:
            await self._tell("ending", reason)
            await self._on_host.close(end)
            self._saved = await self._save_work(end)
        if self._saved is None or self._saved.state != "unsaved":
            await self._on_host.remove()
        self._state = State.RETIRED
        await self._tell("retired", reason)
        if lease is not None and self._saved is not None:
            await self._after.tell_ended(self._brought, self._reply(lease.claim_id, self._saved))
        if self._saved is not None and self._saved.state == "unsaved":
            workflow.upsert_search_attributes(self._attributes(State.RETIRED))
            await workflow.sleep(UNSAVED_KEPT, summary="kept for its unsaved work")
            await self._on_host.remove()

    async def _save_work(self, end: EndInput) -> SavedWork:
        saved = await self._on_host.save(end)
        if end.reason is EndReason.REFUSED and self._failure is not None:
            return SavedWork(state="discarded", detail=self._failure.reason)
        return saved

    def _reply(self, claim_id: str, saved: SavedWork) -> ReleaseReply:
        return ReleaseReply(
            claim_id=claim_id,
            container=self._start.container,
            reason=self._end or EndReason.RELEASED,
            saved=saved,
        )

    # ── messages ─────────────────────────────────────────────────────────────────────────────

    @workflow.signal(name="claimed")
    def claimed(self, told: Claimed) -> None:
        """The keeper granted this container. An older token changes nothing."""
        if self._end is None and (self._lease is None or told.lease.token > self._lease.token):
            self._lease, self._brought = told.lease, told.brought
            early = self._early_release
            if early is not None and early.token >= told.lease.token:
                self._begin_end(early)

    @workflow.signal(name="release")
    def release_by_signal(self, request: ReleaseRequest) -> None:
        """End the lease. A release may overtake its ``claimed``: then it takes effect with that.

        Ending an unclaimed container at once would look to the keeper like a grant that never
        reached its holder, and the claim would get another container.
        """
        if self._lease is None:
            self._early_release = request
        elif request.token >= self._lease.token:
            self._begin_end(request)

    @workflow.signal(name="retire")
    def retire(self, told: Retire) -> None:
        """The keeper wants this container gone; a claimed one saves its work first."""
        if self._end is None:
            self._end = told.reason
            self._corpse = told.reason is EndReason.DIED and not self._armed

    @workflow.signal(name="ask")
    def ask(self, told: Ask) -> None:
        """The keeper wants to know how this container is."""
        self._asked = True

    @workflow.signal(name="died")
    def died(self, told: Died) -> None:
        """The host's watch: the Docker container does not run any more."""
        if self._docker_id and told.docker_id == self._docker_id:
            self._gone = True
            if self._state in (State.CLONING, State.INSTALLING) and self._end is None:
                self._failure = Failure(
                    step=self._state, reason=f"the container died: {told.detail}", at=self._now()
                )
                self._end = EndReason.DIED

    @workflow.update(name="release")
    async def release(self, request: ReleaseRequest) -> ReleaseReply:
        """End the lease; answers when its work is saved."""
        if self._end is None:
            await self._held(request.token)
        self._begin_end(request)
        await workflow.wait_condition(lambda: self._saved is not None or self._is_retired())
        never = SavedWork(state="discarded", detail="never armed")
        return self._reply(request.claim_id, self._saved or never)

    @release.validator
    def _check_release(self, request: ReleaseRequest) -> None:
        self._check_token(request.token)

    @workflow.update(name="extend")
    async def extend(self, request: ExtendRequest) -> ExtendReply:
        """Lengthen the lease: the host's lease file first, then the answer, then the keeper."""
        lease = await self._held(request.token)
        wanted = max(lease.expires_at, self._now() + request.ttl_s)
        self._extending += 1
        try:
            reply = await self._on_host.extend(lease, wanted)
        finally:
            self._extending -= 1
        self._refuse_ended()
        held = self._lease or lease
        later = max(reply.expires_at, held.expires_at)
        self._lease = held.model_copy(update={"expires_at": later})
        await self._tell("extended")
        return reply

    @extend.validator
    def _check_extend(self, request: ExtendRequest) -> None:
        self._check_token(request.token)
        longest = self._start.config.lease.max_ttl
        if not 0 < request.ttl_s <= longest:
            raise ApplicationError(
                f"ttl_s {request.ttl_s:g} is not within 1 and the pool's {longest:g}",
                type="usage",
                non_retryable=True,
            )

    @workflow.update(name="arm")
    async def arm(self, request: ArmRequest) -> ArmReply:
        """Answer when the claim with this token is armed, and after its hooks where so said."""
        await self._held(request.token)
        await workflow.wait_condition(
            lambda: (
                (self._armed and self._after.ready) or self._end is not None or self._is_retired()
            )
        )
        self._refuse_ended()
        failed = self._after.failed
        return ArmReply(
            armed=True,
            failed_hook=told_of(failed) if failed else "",
            hook_tail=failed.tail if failed else "",
        )

    @arm.validator
    def _check_arm(self, request: ArmRequest) -> None:
        self._check_token(request.token)

    # ── small parts ──────────────────────────────────────────────────────────────────────────

    def _begin_end(self, request: ReleaseRequest) -> None:
        if self._end is None:
            self._end = request.reason
            self._save = request.save

    async def _held(self, token: int) -> Lease:
        """The live lease, whose ``claimed`` may still be on its way when its holder speaks."""
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._lease is not None or self._end is not None,
                timeout=GRANT_PATIENCE,
                timeout_summary="a grant on its way",
            )
        self._refuse_ended()
        self._check_token(token)
        if self._lease is None:
            raise _refused(NotFoundError(f"container {self._start.container} is not claimed"))
        return self._lease

    def _refuse_ended(self) -> None:
        if self._end is not None:
            name = self._lease.claim_id if self._lease else self._start.container
            why = f" ({self._failure.reason})" if self._failure else ""
            raise _refused(NotFoundError(f"{name} is ending: {self._end}{why}"))

    def _check_token(self, token: int) -> None:
        """Refuse an older token; a newer one belongs to a ``claimed`` that is still on its way."""
        if self._lease is not None and token != self._lease.token:
            raise _refused(FencedError(f"token {token} is not that of the live lease"))

    def _is_retired(self) -> bool:
        return self._state is State.RETIRED

    async def _tell(self, kind: NewsKind, reason: EndReason | None = None) -> None:
        """Send news to the keeper; a keeper that is gone ends a container that nobody holds."""
        self._sent_seq += 1
        lease = self._lease
        told = ContainerNews(
            container=self._start.container,
            seq=self._sent_seq,
            kind=kind,
            at=self._now(),
            host=self._host,
            docker_id=self._docker_id,
            expires_at=lease.expires_at if lease else 0.0,
            reason=reason,
            failure=self._failure,
            saved=self._saved,
        )
        keeper = workflow.get_external_workflow_handle(keeper_id(self._start.pool))
        try:
            await keeper.signal("news", told)
        except ApplicationError as error:
            workflow.logger.warning("keeper not told of %s: %s", kind, error.message)
            if lease is None and self._end is None:
                self._end = EndReason.LOST

    def _tell_soon(self, kind: NewsKind) -> None:
        """Send news while the next step goes on; ``seq`` keeps their order."""
        task = asyncio.create_task(self._tell(kind))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    def _attributes(self, state: State) -> list[SearchAttributeUpdate]:  # type: ignore[type-arg]
        return [STATE.value_set(state), HOST.value_set(self._host)]

    def _now(self) -> float:
        return workflow.now().timestamp()


def _refused(error: GreenroomError) -> ApplicationError:
    return failures.refusal(error)
