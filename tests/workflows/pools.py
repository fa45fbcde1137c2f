"""A pool under test, and how a test talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from fake_host import FakeHost
from temporalio.client import (
    Client,
    WithStartWorkflowOperation,
    WorkflowHandle,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError

from greenroom.core.config import PoolConfig
from greenroom.core.ledger import KeeperInput
from greenroom.core.messages import (
    ClaimReply,
    ClaimRequest,
    ConfigureReply,
    ConfigureRequest,
    PoolStatus,
)
from greenroom.core.names import WORKFLOW_QUEUE, keeper_id
from workflows.pool import PoolKeeper

RETRIED = {"draining", "AcceptedUpdateCompletedWorkflow"}
"""Failures after which a client asks again with the same claim id."""


@dataclass
class Pool:
    """A pool under test and the host behind it."""

    client: Client
    host: FakeHost
    name: str
    config: PoolConfig

    @property
    def keeper(self) -> WorkflowHandle[PoolKeeper, None]:
        return self.client.get_workflow_handle_for(PoolKeeper.run, keeper_id(self.name))

    async def configure(self, **changes: object) -> ConfigureReply:
        """Create the pool, or give it a changed pool file."""
        merged = {**self.config.model_dump(mode="json"), **changes}
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
            ConfigureRequest(config=self.config),
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

    async def status(self) -> PoolStatus:
        return await self.keeper.query(PoolKeeper.status)

    async def until(self, wanted: Callable[[PoolStatus], bool]) -> PoolStatus:
        """The first status that is as wanted (the test's time-out is the limit)."""
        while True:
            status = await self.status()
            if wanted(status):
                return status
            await asyncio.sleep(0.02)

    async def until_ready(self, count: int) -> PoolStatus:
        return await self.until(lambda status: status.counts.ready == count)
