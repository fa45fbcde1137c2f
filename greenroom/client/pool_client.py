"""Greenroom over Temporal: every message to pools and containers, from a service of one's own.

``PoolClient`` needs a Temporal client with the pydantic data converter (``connect`` makes one).
It asks again, with the same request, exactly where asking again is right; it owns the total time
of each call itself, because a time-out given to the server does not bound an Update.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast
from uuid import uuid4

from pydantic import BaseModel
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import QueryRejectCondition, WorkflowIDConflictPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.service import RPCError, RPCStatusCode

from greenroom.client.coalesce import Answer, Coalescer
from greenroom.client.retries import (
    NO_RETRIES,
    PAUSE_FIRST_S,
    WorkflowGoneError,
    patiently,
    wait_failed,
)
from greenroom.core.config import PoolConfig
from greenroom.core.errors import GreenroomError, NotFoundError, TemporalError, from_code
from greenroom.core.ledger import KeeperInput
from greenroom.core.messages import (
    ArmReply,
    ArmRequest,
    CancelClaim,
    ClaimBatch,
    ClaimBatchReply,
    ClaimReply,
    ClaimRequest,
    ExtendReply,
    ExtendRequest,
    LeaseQuery,
    Queued,
    Refusal,
    ReleaseReply,
    ReleaseRequest,
    TransferReply,
    TransferRequest,
    WaitVerdict,
)
from greenroom.core.names import (
    WORKFLOW_QUEUE,
    host_queue,
    host_workflow_id,
    keeper_id,
    wait_workflow_id,
)
from greenroom.core.pool_messages import (
    ConfigureReply,
    ConfigureRequest,
    HostInput,
    PoolStatus,
    Pushed,
    ResizeRequest,
    SuspendReply,
    SuspendRequest,
)
from greenroom.core.records import Lease
from greenroom.core.requests import check_form

ANSWER_S = 30.0
"""How long an answer that needs no preparation may take before Temporal counts as unreachable."""
SAVE_S = 15 * 60.0
"""How long saving a claim's work may take."""
SAFE_IN_FLIGHT = 8
"""Updates at once on one keeper of a server with Temporal's default limits."""

_SETTLE_S = 1.0
_START_S = 20.0

M = TypeVar("M", bound=BaseModel)


async def connect(address: str, namespace: str) -> Client:
    """A Temporal client that speaks Greenroom's models. Raises TemporalError."""
    try:
        return await Client.connect(
            address,
            namespace=namespace,
            data_converter=pydantic_data_converter,
            retry_config=NO_RETRIES,
        )
    except (RPCError, RuntimeError) as error:
        raise TemporalError(f"Temporal at {address} cannot be reached: {error}") from error


class PoolClient:
    """One object per process. ``in_flight`` bounds the Updates at once over all keepers.

    ``answer_s``: how long a claim's answer may take before Temporal counts as unreachable.
    """

    def __init__(
        self, temporal: Client, *, in_flight: int = SAFE_IN_FLIGHT, answer_s: float = ANSWER_S
    ) -> None:
        self.temporal = temporal
        self._answer_s = answer_s
        self._room = asyncio.Semaphore(in_flight)
        self._claims: dict[str, Coalescer] = {}

    # ── claims ───────────────────────────────────────────────────────────────────────────────

    async def claim(self, pool: str, request: ClaimRequest) -> ClaimReply:
        """Granted, or queued. Raises any error of ``core.leases.claim``.

        One keeper Update, which claims that come at the same time share (``client.coalesce``).
        """
        check_form(request)  # a wrong one would be refused together with all that share its Update
        if pool not in self._claims:
            self._claims[pool] = Coalescer(partial(self._claim_each, pool))
        return await self._claims[pool].claim(request)

    async def _claim_each(self, pool: str, requests: Sequence[ClaimRequest]) -> Sequence[Answer]:
        async with self._keeper(pool) as keeper:
            if len(requests) == 1:
                return [
                    await self._update(keeper, "claim", requests[0], ClaimReply, self._answer_s)
                ]
            batch = ClaimBatch(requests=tuple(requests))
            told = await self._update(keeper, "claims", batch, ClaimBatchReply, self._answer_s)
            return [answer.reply or _refused(answer.refusal) for answer in told.answers]

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
                        raise wait_failed(claim_id, error) from error
                else:
                    if verdict.granted() or not young:
                        return verdict
                await asyncio.sleep(PAUSE_FIRST_S)

        # As in _update.
        return await patiently(once, within_s, refused_s=ANSWER_S)

    async def cancel_wait(self, pool: str, claim_id: str) -> None:
        """Cancel a queued claim through its Wait; one that is unknown or closed is success.

        The keeper's outbox starts the Wait a moment after the claim stands in the queue: before
        that the keeper itself is told.
        """
        handle = self.temporal.get_workflow_handle(wait_workflow_id(pool, claim_id))
        try:
            await patiently(handle.cancel, ANSWER_S)
        except NotFoundError:
            await self.cancel_by_signal(pool, CancelClaim(claim_id=claim_id))

    async def lease(self, pool: str, claim_id: str) -> Lease | None:
        """The live lease of a claim; None when the keeper knows none."""
        async with self._keeper(pool) as keeper:
            found: Lease | None = await self._query(
                keeper, "lease", LeaseQuery(claim_id=claim_id), Lease
            )
            return found

    async def queued(self, pool: str, claim_id: str) -> Queued | None:
        """The place of a claim in its pool's queue; None when it is not waiting."""
        async with self._keeper(pool) as keeper:
            found: Queued | None = await self._query(
                keeper, "queued", LeaseQuery(claim_id=claim_id), Queued
            )
            return found

    async def transfer(self, pool: str, request: TransferRequest) -> Lease:
        """Give a lease another holder; it has the new token. Raises FencedError, NotFoundError."""
        async with self._keeper(pool) as keeper:
            reply = await self._update(keeper, "transfer", request, TransferReply, ANSWER_S)
            return reply.lease

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

        return await patiently(once, ANSWER_S)

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

        return await patiently(once, ANSWER_S)

    # ── small parts ──────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def _keeper(self, pool: str) -> AsyncIterator[WorkflowHandle[Any, Any]]:
        """The keeper's handle; a missing keeper becomes an error that names the pools."""
        try:
            yield self.temporal.get_workflow_handle(keeper_id(pool))
        except WorkflowGoneError as error:
            known = ", ".join(name for name in await self.pools() if name != pool)
            raise NotFoundError(f"no pool {pool}; pools: {known or 'none yet'}") from error

    async def _update(
        self, handle: WorkflowHandle[Any, Any], name: str, request: BaseModel, reply: type[M],
        within_s: float,
    ) -> M:  # fmt: skip
        ident = str(uuid4())

        async def once() -> M:
            nonlocal ident
            async with self._room:
                try:
                    # Under the same id a try after a lost connection waits for what the first one
                    # began: a release, made twice, would find the lease ending and not wait.
                    answer: M = await handle.execute_update(
                        name, request, id=ident, result_type=reply
                    )
                except WorkflowUpdateFailedError:
                    ident = str(uuid4())  # this one has its answer
                    raise
                return answer

        # Whoever may wait long also bears a server that is away for longer.
        return await patiently(once, within_s, refused_s=ANSWER_S if within_s > ANSWER_S else None)

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

        return await patiently(once, within_s)

    async def _signal(
        self, handle: WorkflowHandle[Any, Any], name: str, message: BaseModel | None
    ) -> None:
        arguments = [] if message is None else [message]
        await patiently(lambda: handle.signal(name, args=arguments), ANSWER_S)


def _refused(refusal: Refusal | None) -> GreenroomError:
    told = refusal or Refusal(code="internal", message="the keeper gave no answer")
    return from_code(told.code, told.message, told.details)


async def ensure_watch(client: Client, host: str) -> None:
    """Start the host's ``Host`` workflow unless it runs. Raises temporalio.service.RPCError."""
    await client.start_workflow(
        "Host",
        HostInput(host=host, queue=host_queue(host)),
        id=host_workflow_id(host),
        task_queue=WORKFLOW_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )
