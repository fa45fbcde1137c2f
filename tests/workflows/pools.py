"""A pool under test, and how a test talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from greenroom.core.config import PoolConfig
from greenroom.core.ledger import KeeperInput
from greenroom.core.messages import ClaimReply, ClaimRequest, Died, ReleaseRequest, WaitVerdict
from greenroom.core.names import (
    WORKFLOW_QUEUE,
    container_workflow_id,
    host_queue,
    keeper_id,
    wait_workflow_id,
)
from greenroom.core.pool_messages import (
    ConfigureReply,
    ConfigureRequest,
    PoolStatus,
    Pushed,
    SuspendReply,
    SuspendRequest,
)
from greenroom.core.records import Lease
from tests.workflows.fake_host import FakeHost
from tests.workflows.workers import Workers
from workflows.container import Container
from workflows.pool import PoolKeeper
from workflows.wait import Wait

RETRIED = {"draining", "AcceptedUpdateCompletedWorkflow"}
"""Failures after which a client asks again with the same claim id."""
TICK_S = 0.02


@dataclass
class Pool:
    """A pool under test and the host behind it."""

    client: Client
    host: FakeHost
    name: str
    config: PoolConfig
    workers: Workers
    asked_again: list[str] = field(default_factory=list)

    @property
    def keeper(self) -> WorkflowHandle[PoolKeeper, None]:
        return self.client.get_workflow_handle_for(PoolKeeper.run, keeper_id(self.name))

    def container(self, container: str) -> WorkflowHandle[Container, str]:
        ident = container_workflow_id(self.name, container)
        return self.client.get_workflow_handle_for(Container.run, ident)

    def wait(self, claim_id: str) -> WorkflowHandle[Wait, WaitVerdict]:
        ident = wait_workflow_id(self.name, claim_id)
        return self.client.get_workflow_handle_for(Wait.run, ident)

    # ── what clients do ──────────────────────────────────────────────────────────────────────

    async def configure(self, *, resume_from_down: bool = False, **new: object) -> ConfigureReply:
        """Create the pool, or give it a changed pool file."""
        merged = {**self.config.model_dump(mode="json"), **new}
        self.config = PoolConfig.model_validate(merged)
        start = WithStartWorkflowOperation(
            PoolKeeper.run,
            KeeperInput(pool=self.name, config=self.config),
            id=keeper_id(self.name),
            task_queue=WORKFLOW_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        )
        return await self.client.execute_update_with_start_workflow(
            PoolKeeper.configure,
            ConfigureRequest(config=self.config, resume_from_down=resume_from_down),
            start_workflow_operation=start,
        )

    async def claim(self, claim_id: str, **fields: object) -> ClaimReply:
        """Claim by Update; asks again while the keeper hands over, as clients do."""
        request = ClaimRequest.model_validate({"claim_id": claim_id, **fields})
        while True:
            try:
                return await self.keeper.execute_update(PoolKeeper.claim, request)
            except WorkflowUpdateFailedError as error:
                cause = error.cause
                if not (isinstance(cause, ApplicationError) and cause.type in RETRIED):
                    raise
                self.asked_again.append(cause.type or "")
            except RPCError as error:
                # A message that came while the keeper's closing task was tried again.
                if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                    raise
                self.asked_again.append(error.message)

    async def grant(self, claim_id: str, **fields: object) -> Lease:
        """A claim that must be granted at once."""
        reply = await self.claim(claim_id, **fields)
        assert reply.lease is not None, reply
        return reply.lease

    async def release(self, lease: Lease, *, save: bool = True) -> None:
        request = ReleaseRequest(claim_id=lease.claim_id, token=lease.token, save=save)
        await self.keeper.signal(PoolKeeper.release, request)

    async def suspend(self, **fields: object) -> SuspendReply:
        request = SuspendRequest.model_validate(fields)
        return await self.keeper.execute_update(PoolKeeper.suspend, request)

    async def pushed(self, *, force: bool = False) -> None:
        await self.keeper.signal(PoolKeeper.pushed, Pushed(force=force))

    async def kill(self, container: str) -> None:
        """The Docker container dies, and the host's watch says so."""
        self.host.dead.add(container)
        died = Died(docker_id=self.host.containers[container], detail="exit code 137")
        await self.container(container).signal(Container.died, died)

    # ── what tests see ───────────────────────────────────────────────────────────────────────

    async def status(self) -> PoolStatus:
        return await self.keeper.query(PoolKeeper.status)

    async def until(self, wanted: Callable[[PoolStatus], bool]) -> PoolStatus:
        """The first status that is as wanted (the test's time-out is the limit)."""
        while True:
            status = await self.status()
            if wanted(status):
                return status
            await asyncio.sleep(TICK_S)

    async def until_ready(self, count: int) -> PoolStatus:
        return await self.until(lambda status: status.counts.ready == count)

    async def until_gone(self, container: str) -> PoolStatus:
        """The first status in which the keeper does not have this container any more."""
        return await self.until(
            lambda status: container not in {slot.container for slot in status.containers}
        )

    async def until_true(self, wanted: Callable[[], bool]) -> None:
        """Until the host has seen something."""
        while True:
            if wanted():
                return
            await asyncio.sleep(TICK_S)

    async def until_armed(self, lease: Lease) -> None:
        await self.until_true(lambda: self.host.armed.get(lease.container) == lease.token)

    async def run_id(self) -> str:
        """The keeper's present run."""
        return (await self.keeper.describe()).run_id

    async def handed_over(self, before: str) -> str:
        """The keeper's run that came after this one."""
        while True:
            now = await self.run_id()
            if now != before:
                return now
            await asyncio.sleep(TICK_S)

    async def verdict(self, claim_id: str) -> WaitVerdict:
        """The result of a claim's Wait, which may not have been started yet."""
        while True:
            try:
                return await self.wait(claim_id).result()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                await asyncio.sleep(TICK_S)

    # ── the end of a test ────────────────────────────────────────────────────────────────────

    async def terminate_all(self) -> None:
        """Leave nothing open: the next test's worker polls the same queues."""
        await terminate(self.client, keeper_id(self.name))
        query = f"GreenroomPool = '{self.name}' AND ExecutionStatus = 'Running'"
        while True:
            found = {one.id async for one in self.client.list_workflows(query)}
            # What a keeper started last may not be visible yet; the host has heard of it.
            found |= {container_workflow_id(self.name, name) for name in self.host.containers}
            closed = [await terminate(self.client, ident) for ident in found]
            if not any(closed):
                return


async def terminate(client: Client, workflow_id: str) -> bool:
    """Terminate a workflow; False when there is none open."""
    try:
        await client.get_workflow_handle(workflow_id).terminate("end of the test")
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        return False
    return True


async def history_of(handle: WorkflowHandle[Any, Any]) -> bytes:
    """Everything in a workflow's history as it is (in its JSON the payloads are base64)."""
    return b"".join(one.SerializeToString() for one in (await handle.fetch_history()).events)


@asynccontextmanager
async def running_pool(client: Client, name: str) -> AsyncIterator[Pool]:
    """A pool of 2 to 6 that is not configured yet, its fake host, and workers that poll."""
    host = FakeHost(pool=name, queue=host_queue(name))
    config = PoolConfig.model_validate({"name": name, "repo": "/r", "size": {"min": 2, "max": 6}})
    workers = Workers(client, host)
    await workers.start()
    pool = Pool(client, host, name, config, workers)
    try:
        yield pool
    finally:
        await pool.terminate_all()
        await workers.stop()


@contextmanager
def refused(code: str) -> Iterator[list[ApplicationError]]:
    """The block must be refused with this code; the refusal is in the list afterwards."""
    found: list[ApplicationError] = []
    with pytest.raises((WorkflowUpdateFailedError, WorkflowFailureError)) as caught:
        yield found
    cause = caught.value.cause
    assert isinstance(cause, ApplicationError), cause
    assert cause.type == code, cause
    found.append(cause)
