"""One container's whole life, durable: made ready, perhaps claimed once, and always retired.

This workflow owns the lease of its container: it alone ends it, and the keeper only asks.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from greenroom.core import outline
    from greenroom.core.errors import NotFoundError
    from greenroom.core.lease_clock import Due
    from greenroom.core.lifecycle import EndReason, State
    from greenroom.core.messages import (
        ArmReply,
        ArmRequest,
        Ask,
        Claimed,
        ContainerInput,
        Died,
        ExtendReply,
        ExtendRequest,
        ReleaseReply,
        ReleaseRequest,
        Retire,
    )
    from greenroom.core.orders import LastBeat
    from greenroom.core.records import Failure, Lease, SavedWork
    from greenroom.core.task_messages import told as told_of
    from workflows import ending, failures, preparing
    from workflows.held_lease import GRANT_PATIENCE
    from workflows.life import Life, now
    from workflows.outbox import CLAIM, STATE


@workflow.defn(name="Container")
class Container:
    """See the module. Its result is how it ended."""

    @workflow.init
    def __init__(self, start: ContainerInput) -> None:
        self._start = start
        self._life = Life(start)
        self._held = self._life.held
        self._save = True
        self._asked = False

    @workflow.run
    async def run(self, start: ContainerInput) -> str:
        if await self._prepare():
            await self._serve()
        reason = self._life.end or EndReason.LOST
        await ending.finish(self._life, reason, save=self._save)
        await workflow.wait_condition(
            lambda: workflow.all_handlers_finished() and not self._life.telling
        )
        # With the command that closes the workflow, so that it costs no task of its own.
        workflow.upsert_search_attributes(ending.last_attributes(self._life))
        return str(reason)

    async def _prepare(self) -> bool:
        return await preparing.prepare(self._life)

    # ── ready and claimed ────────────────────────────────────────────────────────────────────

    async def _serve(self) -> None:
        """Wait for a claim, arm it, and wait for its end."""
        while self._life.end is None:
            lease = self._held.lease
            if lease is not None and (self._life.gone or not self._held.armed):
                await self._arm(lease)
                continue
            if self._life.gone:
                self._life.end = EndReason.DIED
                return
            if self._asked:
                self._asked = False
                await self._life.tell("alive")
                continue
            due = self._held.due(now())
            if lease is None or due is None:
                await self._something()
            elif due is Due.END:
                self._life.end = EndReason.EXPIRED
            elif due is Due.WARNING:
                await self._warn(lease)
            else:
                await self._check_beat()

    async def _something(self) -> None:
        held, lease, wake_at = self._held, self._held.lease, self._held.wake_at()
        left = None if wake_at is None else wake_at - now()
        # Past its time only while it is being extended: the host may have the new time already.
        overdue = left is not None and left <= 0
        with suppress(TimeoutError):  # the caller compares the time with the lease's end
            await workflow.wait_condition(
                lambda: (
                    self._life.end is not None
                    or held.lease is not lease
                    or self._life.gone
                    or self._asked
                    or (overdue and not held.extending)
                ),
                timeout=None if left is None or overdue else timedelta(seconds=left),
                timeout_summary="end of the lease",
            )

    async def _warn(self, lease: Lease) -> None:
        """Have the host tell the holder that the lease ends soon."""
        self._held.warned = True
        self._show()
        try:
            await self._life.unless_ended(self._life.on_host.begin_warning(lease))
        except ActivityError as error:
            workflow.logger.warning("%s not warned of its end: %s", lease.claim_id, error.cause)

    async def _check_beat(self) -> None:
        """Ask the host when the holder was last heard of; too long ago ends the lease."""
        last: LastBeat | None = None
        try:
            last = await self._life.unless_ended(self._life.on_host.begin_beat_check())
        except ActivityError as error:
            workflow.logger.warning("the last heartbeat is not known: %s", error.cause)
        if not self._held.hear_beat(last, now()) and self._life.end is None:
            self._life.end = EndReason.ABANDONED

    async def _arm(self, lease: Lease) -> None:
        """The durable driver of arming; does nothing where the API was quicker.

        A container that is not running and was never armed is a corpse: the keeper gives the
        claim another one. One that was armed has died in its holder's hands.
        """
        brought = self._life.after.brought
        try:
            # What it brought is there already when only its holder is another one.
            await self._life.on_host.arm(lease, None if self._held.served else brought)
        except ActivityError as error:
            code = failures.code_of(error)
            if code == "fenced" and await self._transferred(lease):
                return
            wrong = brought is not None and code in {"secret", "usage"}
            self._life.end = self._life.end or (EndReason.REFUSED if wrong else EndReason.DIED)
            if code == "corpse" and not self._held.served:
                self._life.corpse = True
                await self._life.tell("corpse")
            else:
                self._life.failure = failures.from_activity(error, "arm", now())
            return
        if self._life.gone:
            self._life.end = self._life.end or EndReason.DIED
            return
        transferred = self._held.served
        self._held.arm(lease)
        self._show()
        if transferred:
            return
        workflow.upsert_search_attributes(
            [STATE.value_set(State.CLAIMED), CLAIM.value_set(lease.claim_id)]
        )
        await self._life.after.begin(lease)

    async def _transferred(self, lease: Lease) -> bool:
        """Whether the host refused ``lease`` because it heard first of its next holder."""
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._held.knows(lease.token + 1) or self._life.end is not None,
                timeout=GRANT_PATIENCE,
                timeout_summary="a transfer on its way",
            )
        return self._held.knows(lease.token + 1)

    # ── messages ─────────────────────────────────────────────────────────────────────────────

    @workflow.signal(name="claimed")
    def claimed(self, told: Claimed) -> None:
        """The keeper granted this container, or gave it another holder.

        An older token changes nothing.
        """
        if self._life.end is None and self._held.take(told.lease, now()):
            self._life.after.brought = told.brought
            early = self._held.early_release()
            if early is not None:
                self._begin_end(early)

    @workflow.signal(name="release")
    def release_by_signal(self, request: ReleaseRequest) -> None:
        """End the lease. A release may overtake its ``claimed``: then it takes effect with that.

        Ending an unclaimed container at once would look to the keeper like a grant that never
        reached its holder, and the claim would get another container.
        """
        if self._held.ended_by(request):
            self._begin_end(request)

    @workflow.signal(name="retire")
    def retire(self, told: Retire) -> None:
        """The keeper wants this container gone; a claimed one saves its work first."""
        if self._life.end is None:
            self._life.end = told.reason
            self._life.corpse = told.reason is EndReason.DIED and not self._held.served

    @workflow.signal(name="ask")
    def ask(self, told: Ask) -> None:
        """The keeper wants to know how this container is."""
        self._asked = True

    @workflow.signal(name="died")
    def died(self, told: Died) -> None:
        """The host's watch: the Docker container does not run any more."""
        if self._life.docker_id and told.docker_id == self._life.docker_id:
            self._life.gone = True
            if self._life.state in (State.CLONING, State.INSTALLING) and self._life.end is None:
                self._life.failure = Failure(
                    step=self._life.state, reason=f"the container died: {told.detail}", at=now()
                )
                self._life.end = EndReason.DIED

    @workflow.update(name="release")
    async def release(self, request: ReleaseRequest) -> ReleaseReply:
        """End the lease; answers when its work is saved."""
        if self._life.end is None:
            await self._live(request.token)
        self._begin_end(request)
        await workflow.wait_condition(lambda: self._life.saved is not None or self._life.is_retired)
        never = SavedWork(state="discarded", detail="never armed")
        return ending.reply(self._life, request.claim_id, self._life.saved or never)

    @release.validator
    def _check_release(self, request: ReleaseRequest) -> None:
        self._held.check_token(request.token, newer=True)

    @workflow.update(name="extend")
    async def extend(self, request: ExtendRequest) -> ExtendReply:
        """Lengthen the lease: the host's lease file first, then the answer, then the keeper."""
        lease = await self._live(request.token)
        wanted = max(lease.expires_at, now() + request.ttl_s)
        self._held.extending += 1
        try:
            reply = await self._life.on_host.extend(lease, wanted, hold=request.hold)
        finally:
            self._held.extending -= 1
        self._refuse_ended()
        self._held.lengthen(lease, reply)
        self._show()
        await self._life.tell("extended")
        return reply

    @extend.validator
    def _check_extend(self, request: ExtendRequest) -> None:
        self._held.check_token(request.token, newer=True)
        self._held.check_extension(request)

    @workflow.update(name="arm")
    async def arm(self, request: ArmRequest) -> ArmReply:
        """Answer when the claim with this token is armed, and after its hooks where so said."""
        await self._live(request.token)
        life, after = self._life, self._life.after
        await workflow.wait_condition(
            lambda: (self._held.armed and after.ready) or life.end is not None or life.is_retired
        )
        self._refuse_ended()
        failed = after.failed
        return ArmReply(
            armed=True,
            failed_hook=told_of(failed) if failed else "",
            hook_tail=failed.tail if failed else "",
        )

    @arm.validator
    def _check_arm(self, request: ArmRequest) -> None:
        self._held.check_token(request.token, newer=True)

    # ── small parts ──────────────────────────────────────────────────────────────────────────

    def _begin_end(self, request: ReleaseRequest) -> None:
        if self._life.end is None:
            self._life.end = request.reason
            self._save = request.save

    async def _live(self, token: int) -> Lease:
        """The live lease, whose ``claimed`` may still be on its way when its holder speaks."""
        with suppress(TimeoutError):
            await workflow.wait_condition(
                lambda: self._held.knows(token) or self._life.end is not None,
                timeout=GRANT_PATIENCE,
                timeout_summary="a grant on its way",
            )
        self._refuse_ended()
        self._held.check_token(token)
        lease = self._held.lease
        if lease is None:
            unclaimed = NotFoundError(f"container {self._start.container} is not claimed")
            raise failures.refusal(unclaimed)
        return lease

    def _refuse_ended(self) -> None:
        if self._life.end is not None:
            lease = self._held.lease
            name = lease.claim_id if lease else self._start.container
            why = f" ({self._life.failure.reason})" if self._life.failure else ""
            raise failures.refusal(NotFoundError(f"{name} is ending: {self._life.end}{why}"))

    def _show(self) -> None:
        """What the Temporal UI says of this container; no event."""
        lease, soon = self._held.lease, self._held.warned
        if lease is not None:
            end = workflow.now() + timedelta(seconds=lease.expires_at - now())
            ends = f"{end:%Y-%m-%d %H:%M:%S} UTC"
            workflow.set_current_details(outline.lease_details(lease, ends, ending_soon=soon))
