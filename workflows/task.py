"""One command with a container of its own: claim, run, save, release; all of it durable.

Whoever starts it needs nothing but Temporal. The keeper and the container's workflow tell it by
Signal what becomes of its claim (``reply_to``).
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from activities import options
    from greenroom.core.errors import NotFoundError, UsageError, from_code
    from greenroom.core.lifecycle import EndReason
    from greenroom.core.messages import (
        ArmedNews,
        ClaimRequest,
        ReleaseReply,
        ReleaseRequest,
        WaitVerdict,
    )
    from greenroom.core.names import (
        check_claim_id,
        check_pool_name,
        host_queue,
        keeper_id,
        long_queue,
        task_workflow_id,
        ulid,
    )
    from greenroom.core.records import Lease
    from greenroom.core.task_messages import (
        RunInput,
        RunResult,
        TaskInput,
        TaskPhase,
        TaskResult,
        TaskStatus,
    )
    from workflows import failures
    from workflows.claimant import Claimant, notice_cancelling
    from workflows.outbox import CLAIM, POOL

SAVING = timedelta(minutes=30)
"""How long the container's workflow may take to save the work and to say so."""
_UNCERTAIN = ("lost", "died")
"""Outcomes after which nobody knows what the command did; only these are tried again."""


@workflow.defn(name="Task")
class Task(Claimant):
    """See the module. Cancelling it kills the command and ends the lease."""

    @workflow.init
    def __init__(self, start: TaskInput) -> None:
        ident = workflow.info().workflow_id
        super().__init__(start.pool, start.claim_id or _claim_id(start.pool, ident), ident)
        self._start = start
        self._first_id = self._claim_id
        self._attempt = 1
        self._phase: TaskPhase = "waiting"
        self._armed = 0
        self._ended: ReleaseReply | None = None

    @workflow.run
    async def run(self, start: TaskInput) -> TaskResult:
        if start.plain:
            message = f"a Task must not carry {', '.join(start.plain)} in the clear: seal them"
            raise failures.refusal(UsageError(message))
        try:  # Temporal takes no longer ids and attributes, however often they are tried
            check_pool_name(self._pool)
            check_claim_id(self._claim_id)
        except UsageError as error:
            raise failures.refusal(error) from error
        while True:
            result = await self._try()
            if result.outcome not in _UNCERTAIN or self._attempt >= start.retry.attempts:
                self._phase = "done"
                return result
            self._again()

    def _again(self) -> None:
        """Another claim: the one before is ending or has ended, and can have no second life."""
        self._attempt += 1
        self._claim_id = f"{self._first_id[:90]}-{self._attempt}"
        self._phase, self._armed = "waiting", 0
        self._verdict = self._withdrawn = self._ended = None

    async def _try(self) -> TaskResult:
        workflow.upsert_search_attributes(
            [POOL.value_set(self._pool), CLAIM.value_set(self._claim_id)]
        )
        try:
            await self._claim()
            lease, ran = await self._use()
            await self._release(lease)
        except (asyncio.CancelledError, ActivityError) as error:
            if not is_cancelled_exception(error):
                raise
            await self._cancelled()
            raise asyncio.CancelledError from error
        told = ran.model_dump(exclude={"reattached"})
        return TaskResult(
            **told,
            pool=self._pool,
            claim_id=self._claim_id,
            container=lease.container,
            commit=lease.commit,
            warm=lease.warm,
            waited_s=lease.waited_s,
            saved=self._ended.saved if self._ended else None,
            attempt=self._attempt,
        )

    # ── the claim ────────────────────────────────────────────────────────────────────────────

    async def _claim(self) -> None:
        """Ask the keeper and wait for its word. Raises ApplicationError: there is no lease."""
        start = self._start
        request = ClaimRequest(
            claim_id=self._claim_id,
            holder=start.holder,
            ttl_s=start.ttl_s,
            wait_s=start.wait_s,
            issued_at=workflow.now().timestamp(),
            labels=start.labels,
            priority=start.priority,
            sealed=start.sealed,
            host_secrets=start.host_secrets,
            reply_to=self._reply_to,
        )
        keeper = workflow.get_external_workflow_handle(keeper_id(self._pool))
        try:
            await keeper.signal("claim", request)
        except ApplicationError as error:
            raise failures.refusal(NotFoundError(f"no pool {self._pool}")) from error
        notice_cancelling()
        verdict = await self._heard(timedelta(seconds=start.wait_s))
        verdict = verdict or await self._give_up(EndReason.TIMED_OUT)
        if verdict.lease is None:
            raise self._refused(verdict)

    def _refused(self, verdict: WaitVerdict) -> ApplicationError:
        why = verdict.detail or str(verdict.reason)
        message = f"claim {self._claim_id} of pool {self._pool} got no container: {why}"
        return failures.refusal(from_code(verdict.code or "no_container", message))

    # ── the container ────────────────────────────────────────────────────────────────────────

    async def _use(self) -> tuple[Lease, RunResult]:
        """Run the command in whatever container the claim holds once it is armed."""
        while True:
            lease = self._lease()
            self._phase = "arming"
            await workflow.wait_condition(
                lambda held=lease: (  # type: ignore[misc]  # bound at once
                    self._armed >= held.token
                    or self._ended is not None
                    or self._withdrawn is not None
                    or self._lease().token != held.token
                )
            )
            if self._lease().token != lease.token:
                continue  # that container was dead, and the claim has another one
            if self._ended is not None:
                return lease, _never_ran(self._ended)
            if self._withdrawn is not None:
                raise self._refused(self._withdrawn)
            self._phase = "running"
            return lease, await self._run(lease)

    async def _run(self, lease: Lease) -> RunResult:
        start = self._start
        try:
            result: RunResult = await workflow.execute_activity(
                "run_task",
                RunInput(
                    lease=lease,
                    command=start.command,
                    env=start.env,
                    timeout_s=start.timeout_s,
                    workdir=start.workdir,
                ),
                result_type=RunResult,
                task_queue=long_queue(host_queue(lease.host)),
                summary=" ".join(start.command)[:100],
                **options.RUN,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            failure = failures.from_activity(error, "run", workflow.now().timestamp())
            return RunResult(outcome="lost", detail=failure.reason)
        return result

    async def _release(self, lease: Lease) -> None:
        """End the lease, and wait until its work is saved."""
        self._phase = "saving"
        if self._ended is None:
            container = workflow.get_external_workflow_handle(lease.container_workflow)
            release = ReleaseRequest(
                claim_id=lease.claim_id, token=lease.token, save=self._start.save
            )
            try:
                await container.signal("release", release)
            except ApplicationError as error:
                workflow.logger.warning("container is gone: %s", error.message)
                return
        try:
            await workflow.wait_condition(lambda: self._ended is not None, timeout=SAVING)
        except TimeoutError:
            workflow.logger.warning("claim %s: its container does not say its end", lease.claim_id)

    async def _cancelled(self) -> None:
        """Leave nothing: no place in the queue, no lease."""
        if self._phase == "waiting":
            verdict = self._verdict or await self._give_up(EndReason.CANCELLED)
            await self._give_back(verdict)
        elif self._ended is None:
            await self._release(self._lease())

    def _lease(self) -> Lease:
        if self._verdict is None or self._verdict.lease is None:
            raise RuntimeError("used before it was granted")
        return self._verdict.lease

    # ── messages ─────────────────────────────────────────────────────────────────────────────

    @workflow.signal(name="armed")
    def armed(self, news: ArmedNews) -> None:
        """The container's workflow: commands can run."""
        if news.claim_id == self._claim_id:
            self._armed = max(self._armed, news.token)

    @workflow.signal(name="ended")
    def ended(self, news: ReleaseReply) -> None:
        """The container's workflow: the lease is over, and this is what was saved."""
        if news.claim_id == self._claim_id:
            self._ended = self._ended or news

    @workflow.query(name="state")
    def state(self) -> TaskStatus:
        """How far it is."""
        lease = self._verdict.lease if self._verdict else None
        return TaskStatus(
            phase=self._phase,
            pool=self._pool,
            claim_id=self._claim_id,
            attempt=self._attempt,
            lease=lease,
        )


def _claim_id(pool: str, workflow_id: str) -> str:
    prefix = task_workflow_id(pool, "")
    if workflow_id.startswith(prefix) and len(workflow_id) > len(prefix):
        return workflow_id.removeprefix(prefix)
    return ulid(workflow.now().timestamp(), workflow.random().getrandbits(80))


def _never_ran(ended: ReleaseReply) -> RunResult:
    died = ended.reason in (EndReason.DIED, EndReason.LOST)
    why = ended.saved.detail or str(ended.reason)
    return RunResult(outcome="died" if died else "ended", detail=f"before it ran: {why}")
