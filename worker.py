"""The composition root: which workflows and activities one host's worker serves, and how."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from activities.containers import Containers
from activities.context import HostContext, find_namespace_id, open_context
from activities.images import Images
from activities.leases import Leases
from activities.repos import Repos
from activities.watch import Watch
from greenroom.core.messages import HostInput
from greenroom.core.names import WORKFLOW_QUEUE, host_queue, host_workflow_id, place_queue
from greenroom.services.settings import Settings, load_settings
from greenroom.services.temporal_server import connect_config
from workflows.container import Container
from workflows.host import Host
from workflows.pool import PoolKeeper
from workflows.snapshot import Snapshot
from workflows.wait import Wait

WORKFLOWS = (PoolKeeper, Container, Snapshot, Wait, Host)
AT_ONCE = 32
GRACE = timedelta(seconds=30)


def activities(ctx: HostContext, client: Client) -> tuple[Callable[..., object], ...]:
    """Every activity of this host: look and place for any pool, the rest for its own containers."""
    repos, slots, images, leases = Repos(ctx), Containers(ctx), Images(ctx), Leases(ctx)
    return (
        repos.look, slots.place,
        images.find_snapshot, images.start_builder, images.builder_step, images.commit_builder,
        images.verify_image, images.tag_snapshot, images.remove_builder,
        slots.create_container, slots.clone_in, slots.install_in, slots.remove_container,
        leases.arm_lease, leases.extend_lease, leases.close_lease, leases.save_work,
        Watch(ctx, client).watch,
    )  # fmt: skip


def main() -> None:
    """Serve until SIGTERM or SIGINT. Raises UsageError when there is no install."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(load_settings(os.environ)))


async def serve(settings: Settings) -> None:
    """Serve every queue and keep the host's watch going; say ``ready``; stop gracefully."""
    options = connect_config(settings, os.environ)
    client = await Client.connect(**options, data_converter=pydantic_data_converter)
    ctx = open_context(settings, await find_namespace_id(client))
    look, place, *own = activities(ctx, client)
    queue, stop = host_queue(settings.host), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with ThreadPoolExecutor(AT_ONCE) as threads, ThreadPoolExecutor(AT_ONCE) as more:
        flows = Worker(client, task_queue=WORKFLOW_QUEUE, workflows=WORKFLOWS)
        shared = Worker(
            client, task_queue=place_queue(), activities=[look, place], activity_executor=threads,
            max_concurrent_activities=AT_ONCE, graceful_shutdown_timeout=GRACE,
        )  # fmt: skip
        host = Worker(
            client, task_queue=queue, activities=own, activity_executor=more,
            max_concurrent_activities=AT_ONCE, graceful_shutdown_timeout=GRACE,
        )  # fmt: skip
        async with flows, shared, host:
            await client.start_workflow(
                Host.run,
                HostInput(host=settings.host, queue=queue),
                id=host_workflow_id(settings.host),
                task_queue=WORKFLOW_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await stop.wait()
