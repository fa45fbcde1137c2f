"""The Temporal worker of one host: everything it runs is listed here, and put together here."""

from __future__ import annotations

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.boundary import defined_by
from activities.containers import Containers
from activities.context import find_namespace_id, open_context
from activities.images import Images
from activities.leases import Leases
from activities.repos import Repos
from activities.tasks import Tasks
from activities.watch import Watch
from greenroom.client import ensure_watch
from greenroom.core.names import WORKFLOW_QUEUE, host_queue, long_queue, place_queue
from greenroom.services.settings import Settings, load_settings
from greenroom.services.temporal_server import connect_config
from workflows.container import Container
from workflows.host import Host
from workflows.pool import PoolKeeper
from workflows.snapshot import Snapshot
from workflows.task import Task
from workflows.wait import Wait

WORKFLOWS = (PoolKeeper, Container, Snapshot, Wait, Task, Host)
ACTIVITIES = (Repos, Containers, Images, Leases, Tasks, Watch)  # their methods with @activity.defn


def main(part: str = "all") -> None:
    """Serve ``workflows``, ``activities`` or ``all`` until SIGTERM. Raises UsageError.

    In two processes a claim, a workflow's business, waits for no activity's Python.
    """
    asyncio.run(serve(load_settings(os.environ), part))


async def serve(settings: Settings, part: str) -> None:
    """Serve the part's queues, see that the host is watched; say ``ready``; stop gracefully."""
    options = connect_config(settings, os.environ)
    client = await Client.connect(**options, data_converter=pydantic_data_converter)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with AsyncExitStack() as running:
        if part != "activities":
            flows = Worker(
                client, task_queue=WORKFLOW_QUEUE, workflows=WORKFLOWS,
                workflow_runner=UnsandboxedWorkflowRunner(),  # docs/decisions/0006
            )  # fmt: skip
            await running.enter_async_context(flows)
        if part != "workflows":
            await serve_activities(settings, client, running)
        print("ready", flush=True)  # noqa: T201 - what the supervisor waits for
        await stop.wait()


async def serve_activities(settings: Settings, client: Client, running: AsyncExitStack) -> None:
    """Poll the queue of all hosts and this host's own, and see that the host is watched."""
    ctx = open_context(settings, await find_namespace_id(client), client)
    hands = [hand for kind in ACTIVITIES for hand in defined_by(kind(ctx))]
    own = host_queue(settings.host)
    room = {place_queue(): 32, own: 32, long_queue(own): 256}  # long ones only wait
    for queue, most in room.items():
        threads = running.enter_context(ThreadPoolExecutor(most))
        some = Worker(
            client, task_queue=queue, activities=hands, activity_executor=threads,
            max_concurrent_activities=most, graceful_shutdown_timeout=timedelta(seconds=30),
            max_heartbeat_throttle_interval=timedelta(seconds=1),
        )  # fmt: skip
        await running.enter_async_context(some)
    await ensure_watch(client, settings.host)
