"""The worker processes of a test: one for workflows, one per queue of the fake host."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta

from temporalio.client import Client
from temporalio.worker import Worker

from greenroom.core.names import WORKFLOW_QUEUE, long_queue, place_queue
from tests.workflows.fake_host import FakeHost
from workflows.container import Container
from workflows.host import Host
from workflows.pool import PoolKeeper
from workflows.snapshot import Snapshot
from workflows.task import Task
from workflows.wait import Wait

WORKFLOWS = [PoolKeeper, Container, Snapshot, Wait, Task, Host]


CANCELLED_WITHIN = timedelta(seconds=0.1)
"""An activity hears of its cancelling with a heartbeat, and the SDK throttles those."""


class Workers:
    """Starts and stops what a Greenroom worker process runs."""

    def __init__(self, client: Client, host: FakeHost) -> None:
        self._client = client
        self._host = host
        self._stack: AsyncExitStack | None = None

    async def start(self) -> None:
        """Poll all queues."""
        client, host = self._client, self._host
        self._stack = AsyncExitStack()
        for worker in (
            Worker(client, task_queue=WORKFLOW_QUEUE, workflows=WORKFLOWS),
            Worker(client, task_queue=place_queue(), activities=host.place_activities()),
            Worker(
                client,
                task_queue=host.queue,
                activities=host.host_activities(),
                max_heartbeat_throttle_interval=CANCELLED_WITHIN,
            ),
            Worker(
                client,
                task_queue=long_queue(host.queue),
                activities=host.long_activities(),
                max_heartbeat_throttle_interval=CANCELLED_WITHIN,
            ),
        ):
            await self._stack.enter_async_context(worker)

    async def stop(self) -> None:
        """Stop without grace: activities that run are cut off, their workflows stay open."""
        if self._stack is not None:
            stack, self._stack = self._stack, None
            await stack.aclose()
