"""Greenroom over Temporal: every message to pools and containers, from a service of one's own.

``PoolClient`` needs a Temporal client with the pydantic data converter (``connect`` makes one).
It asks again, with the same request, exactly where asking again is right; it owns the total time
of each call itself, because a time-out given to the server does not bound an Update.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

from pydantic import BaseModel
from temporalio.client import (
    Client,
    RPCTimeoutOrCancelledError,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import QueryRejectCondition, WorkflowIDConflictPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError, RPCStatusCode

from greenroom.core.config import PoolConfig
from greenroom.core.errors import (
    DrainingError,
    GreenroomError,
    NotFoundError,
    TemporalError,
    from_code,
)
from greenroom.core.ledger import KeeperInput
from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import (
    ArmReply,
    ArmRequest,
    CancelClaim,
    ClaimReply,
    ClaimRequest,
    ConfigureReply,
    ConfigureRequest,
    ExtendReply,
    ExtendRequest,
    HostInput,
    Lease,
    LeaseQuery,
    PoolStatus,
    Pushed,
    ReleaseReply,
    ReleaseRequest,
    ResizeRequest,
    SuspendReply,
    SuspendRequest,
    WaitVerdict,
)
from greenroom.core.names import (
    WORKFLOW_QUEUE,
    host_queue,
    host_workflow_id,
    keeper_id,
    wait_workflow_id,
)

ANSWER_S = 30.0
"""How long an answer that needs no preparation may take before Temporal counts as unreachable."""
SAVE_S = 15 * 60.0
"""How long saving a claim's work may take."""
SAFE_IN_FLIGHT = 8
"""Updates at once on one keeper of a server with Temporal's default limits."""

_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.02, 0.5
_SETTLE_S = 1.0
_START_S = 20.0
_CLOSED_UNDER_US = "AcceptedUpdateCompletedWorkflow"
_NOT_READY = "WorkflowNotReadyFailure"

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


async def connect(address: str, namespace: str) -> Client:
    """A Temporal client that speaks Greenroom's models. Raises TemporalError."""
    try:
        return await Client.connect(
            address, namespace=namespace, data_converter=pydantic_data_converter
        )
    except (RPCError, RuntimeError) as error:
        raise TemporalError(f"Temporal at {address} cannot be reached: {error}") from error


class PoolClient:
    """One object per process. ``in_flight`` bounds the Updates at once over all keepers."""

    def __init__(self, temporal: Client, *, in_flight: int = SAFE_IN_FLIGHT) -> None:
        self.temporal = temporal
        self._room = asyncio.Semaphore(in_flight)

    # ── claims ───────────────────────────────────────────────────────────────────────────────

    async def claim(
        self, pool: str, request: ClaimRequest, *, within_s: float = ANSWER_S
    ) -> ClaimReply:
        """One keeper Update: granted, or queued. Raises any error of ``core.leases.claim``."""
        async with self._keeper(pool) as keeper:
            return await self._update(keeper, "claim", request, ClaimReply, within_s)

    async def verdict(self, pool: str, claim_id: str, *, within_s: float) -> WaitVerdict:
        """What became of a queued claim; waits for it. Raises NotFoundError when cancelled.

        The Wait is started by the keeper's outbox a moment after the answer ``queued``; until
        then an earlier Wait under the same id may answer. Its refusal does not count at first.
        """
        handle = self.temporal.get_workflow_handle(
            wait_workflow_id(pool, claim_id), result_type=WaitVerdict
        )
        asked = time.monotonic()

        async def once() -> WaitVerdict:
            while True:
                waited = time.monotonic() - asked
                young = waited < _SETTLE_S
                try:
                    verdict: WaitVerdict = await handle.result()
                except RPCError as error:
                    if error.status is not RPCStatusCode.NOT_FOUND or waited > _START_S:
                        raise
                except WorkflowFailureError as error:
                    if not young:
                        raise _wait_failed(claim_id, error) from error
                else:
                    if verdict.lease is not None or not young:
                        return verdict
                await asyncio.sleep(_PAUSE_FIRST_S)

        return await self._patiently(once, within_s)

    async def cancel_wait(self, pool: str, claim_id: str) -> None:
        """Cancel a queued claim through its Wait; one that is unknown or closed is success."""
        handle = self.temporal.get_workflow_handle(wait_workflow_id(pool, claim_id))
        try:
            await self._patiently(handle.cancel, ANSWER_S)
        except NotFoundError:
            return

    async def lease(self, pool: str, claim_id: str) -> Lease | None:
        """The live lease of a claim; None when the keeper knows none."""
        async with self._keeper(pool) as keeper:
            found: Lease | None = await self._query(
                keeper, "lease", LeaseQuery(claim_id=claim_id), Lease
            )
            return found

    async def release_by_signal(self, pool: str, request: ReleaseRequest) -> None:
        """Tell the keeper that a lease ends; does not wait until its work is saved."""
        async with self._keeper(pool) as keeper:
            await self._signal(keeper, "release", request)

    async def cancel_by_signal(self, pool: str, request: CancelClaim) -> None:
        """Take a claim out of its keeper's queue."""
        async with self._keeper(pool) as keeper:
            await self._signal(keeper, "cancel", request)

    # ── a claimed container ──────────────────────────────────────────────────────────────────

    async def release(self, container_workflow: str, request: ReleaseRequest) -> ReleaseReply:
        """End a lease; answers when its work is saved. Raises FencedError, NotFoundError."""
        handle = self.temporal.get_workflow_handle(container_workflow)
        return await self._update(handle, "release", request, ReleaseReply, SAVE_S)

    async def extend(self, container_workflow: str, request: ExtendRequest) -> ExtendReply:
        """Lengthen a lease. Raises UsageError, FencedError, NotFoundError."""
        handle = self.temporal.get_workflow_handle(container_workflow)
        return await self._update(handle, "extend", request, ExtendReply, ANSWER_S)

    async def arm(
        self, container_workflow: str, request: ArmRequest, *, within_s: float = ANSWER_S
    ) -> ArmReply:
        """Wait until a claim is armed. Raises FencedError, NotFoundError."""
        handle = self.temporal.get_workflow_handle(container_workflow)
        return await self._update(handle, "arm", request, ArmReply, within_s)

    # ── pools ────────────────────────────────────────────────────────────────────────────────

    async def configure(
        self, config: PoolConfig, *, resume_from_down: bool = False
    ) -> ConfigureReply:
        """Give a pool its file, and start its keeper where there is none."""

        async def once() -> ConfigureReply:
            start: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
                "PoolKeeper",
                KeeperInput(pool=config.name, config=config),
                id=keeper_id(config.name),
                task_queue=WORKFLOW_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"pool {config.name}",
            )
            reply: ConfigureReply = await self.temporal.execute_update_with_start_workflow(
                "configure",
                ConfigureRequest(config=config, resume_from_down=resume_from_down),
                start_workflow_operation=start,
                result_type=ConfigureReply,
            )
            return reply

        return await self._patiently(once, ANSWER_S)

    async def resize(self, pool: str, request: ResizeRequest) -> ConfigureReply:
        """Change a pool's size only. Raises UsageError for one that is out of bounds."""
        async with self._keeper(pool) as keeper:
            return await self._update(keeper, "resize", request, ConfigureReply, ANSWER_S)

    async def suspend(self, pool: str, request: SuspendRequest) -> SuspendReply:
        """Retire what can be, for ``down`` or ``delete``. Raises LiveClaimsError."""
        async with self._keeper(pool) as keeper:
            return await self._update(keeper, "suspend", request, SuspendReply, ANSWER_S)

    async def pause(self, pool: str) -> None:
        """Prepare nothing new."""
        async with self._keeper(pool) as keeper:
            await self._signal(keeper, "pause", None)

    async def resume(self, pool: str) -> None:
        """End ``pause``."""
        async with self._keeper(pool) as keeper:
            await self._signal(keeper, "resume", None)

    async def refresh(self, pool: str) -> None:
        """Look at the repository now, and forgive earlier failures."""
        async with self._keeper(pool) as keeper:
            await self._signal(keeper, "pushed", Pushed(force=True))

    async def status(self, pool: str, *, within_s: float = ANSWER_S) -> PoolStatus:
        """What the keeper says of its pool. Raises NotFoundError."""
        async with self._keeper(pool) as keeper:
            found: PoolStatus = await self._query(keeper, "status", None, PoolStatus, within_s)
            return found

    async def pools(self) -> list[str]:
        """Names of all pools with a running keeper, sorted. Raises TemporalError."""

        async def once() -> list[str]:
            query = 'WorkflowType = "PoolKeeper" AND ExecutionStatus = "Running"'
            prefix = keeper_id("")
            return sorted(
                [
                    found.id.removeprefix(prefix)
                    async for found in self.temporal.list_workflows(query)
                ]
            )

        return await self._patiently(once, ANSWER_S)

    # ── small parts ──────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _keeper(self, pool: str) -> AsyncIterator[WorkflowHandle[Any, Any]]:
        """The keeper's handle; a missing keeper becomes an error that names the pools."""
        try:
            yield self.temporal.get_workflow_handle(keeper_id(pool))
        except _WorkflowGoneError as error:
            known = ", ".join(name for name in await self.pools() if name != pool)
            raise NotFoundError(f"no pool {pool}; pools: {known or 'none yet'}") from error

    async def _update(
        self, handle: WorkflowHandle[Any, Any], name: str, request: BaseModel, reply: type[M],
        within_s: float,
    ) -> M:  # fmt: skip
        async def once() -> M:
            async with self._room:
                answer: M = await handle.execute_update(name, request, result_type=reply)
                return answer

        return await self._patiently(once, within_s)

    async def _query(
        self, handle: WorkflowHandle[Any, Any], name: str, request: BaseModel | None,
        reply: type[BaseModel], within_s: float = ANSWER_S,
    ) -> Any:  # noqa: ANN401 - a model or None  # fmt: skip
        arguments = [] if request is None else [request]

        async def once() -> Any:  # noqa: ANN401 - as above
            return await handle.query(
                name,
                args=arguments,
                result_type=cast("type[BaseModel]", reply | None),
                reject_condition=QueryRejectCondition.NOT_OPEN,
            )

        return await self._patiently(once, within_s)

    async def _signal(
        self, handle: WorkflowHandle[Any, Any], name: str, message: BaseModel | None
    ) -> None:
        arguments = [] if message is None else [message]
        await self._patiently(lambda: handle.signal(name, args=arguments), ANSWER_S)

    async def _patiently(self, call: Callable[[], Awaitable[T]], within_s: float) -> T:
        """``call`` until it answers or fails for good, ``within_s`` in all."""
        deadline = time.monotonic() + within_s
        pause = _PAUSE_FIRST_S
        while True:
            try:
                return await _bounded(call, deadline)
            except _FAILURES as error:
                translated = _translate(error)
                if not _worth_another_try(error, translated):
                    raise translated from error
                if time.monotonic() + pause >= deadline:
                    raise _too_late(within_s, translated) from error
            except TimeoutError as error:
                raise _too_late(within_s, None) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX_S)


_FAILURES = (
    RPCError,
    RPCTimeoutOrCancelledError,
    WorkflowUpdateFailedError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
)


class _WorkflowGoneError(NotFoundError):
    """Temporal knows no such running workflow."""


async def _bounded(call: Callable[[], Awaitable[T]], deadline: float) -> T:
    """One try; raises TimeoutError at the deadline, whatever the call itself does then."""
    task = asyncio.ensure_future(call())
    try:
        done, _ = await asyncio.wait({task}, timeout=max(0.0, deadline - time.monotonic()))
    except asyncio.CancelledError:
        _abandon(task)
        raise
    if not done:
        _abandon(task)
        raise TimeoutError
    return task.result()


def _abandon(task: asyncio.Future[Any]) -> None:
    task.cancel()
    # Whatever a cancelled call still says is nobody's business any more.
    task.add_done_callback(lambda late: late.cancelled() or late.exception())


def _translate(error: BaseException) -> GreenroomError:
    """What a failure of the SDK means to a caller of Greenroom."""
    if isinstance(error, WorkflowUpdateFailedError):
        return _from_failure(error.cause)
    gone = isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND
    if gone or isinstance(error, WorkflowQueryRejectedError):
        return _WorkflowGoneError("no such workflow is running")
    return TemporalError(f"Temporal does not answer: {error}")


def _from_failure(cause: BaseException) -> GreenroomError:
    if isinstance(cause, ApplicationError):
        told = cause.details[0] if cause.details and isinstance(cause.details[0], dict) else {}
        return from_code(cause.type or "", cause.message, told)
    return TemporalError(f"Temporal answered: {cause}")


def _worth_another_try(error: BaseException, translated: GreenroomError) -> bool:
    if isinstance(translated, DrainingError):
        return True
    if isinstance(error, WorkflowUpdateFailedError):
        cause = error.cause
        return isinstance(cause, ApplicationError) and cause.type == _CLOSED_UNDER_US
    if not isinstance(error, RPCError):
        return False
    if error.status in (RPCStatusCode.RESOURCE_EXHAUSTED, RPCStatusCode.UNAVAILABLE):
        return True
    return error.status is RPCStatusCode.FAILED_PRECONDITION and any(
        detail.type_url.endswith(_NOT_READY) for detail in error.grpc_status.details
    )


def _too_late(within_s: float, last: GreenroomError | None) -> TemporalError:
    why = f": {last.message}" if last else " (is a worker running?)"
    return TemporalError(f"no answer from Temporal within {within_s:g} s{why}")


def _wait_failed(claim_id: str, error: WorkflowFailureError) -> GreenroomError:
    if isinstance(error.cause, CancelledError):
        return NotFoundError(f"claim {claim_id} was cancelled", reason=str(EndReason.CANCELLED))
    return _from_failure(error.cause)


async def ensure_watch(client: Client, host: str) -> None:
    """Start the host's ``Host`` workflow unless it runs. Raises temporalio.service.RPCError."""
    await client.start_workflow(
        "Host",
        HostInput(host=host, queue=host_queue(host)),
        id=host_workflow_id(host),
        task_queue=WORKFLOW_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
