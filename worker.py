"""The Temporal worker of one host: everything it runs is listed here, and put together here."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from activities.containers import Containers
from activities.context import find_namespace_id, open_context
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
SHARED = (Repos.look, Containers.place)
OWN = (
    *(Images.find_snapshot, Images.start_builder, Images.builder_step, Images.commit_builder),
    *(Images.verify_image, Images.tag_snapshot, Images.remove_builder, Watch.watch),
    *(Containers.create_container, Containers.clone_in, Containers.install_in),
    *(Containers.remove_container, Leases.arm_lease, Leases.extend_lease),
    *(Leases.close_lease, Leases.save_work),
)
ACTIVITIES = (*SHARED, *OWN)
AT_ONCE = 32


def main() -> None:
    """Serve until SIGTERM. Raises UsageError when there is no install."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(serve(load_settings(os.environ)))


async def serve(settings: Settings) -> None:
    """Serve every queue and keep the host's watch going; say ``ready``; stop gracefully."""
    options = connect_config(settings, os.environ)
    client = await Client.connect(**options, data_converter=pydantic_data_converter)
    ctx = open_context(settings, await find_namespace_id(client))
    host, queue = settings.host, host_queue(settings.host)
    holders = (Repos(ctx), Images(ctx), Containers(ctx), Leases(ctx), Watch(ctx, client))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with ThreadPoolExecutor(2 * AT_ONCE) as threads:
        serving = partial(
            Worker,
            client,
            activity_executor=threads,
            max_concurrent_activities=AT_ONCE,
            graceful_shutdown_timeout=timedelta(seconds=30),
        )
        async with (
            Worker(client, task_queue=WORKFLOW_QUEUE, workflows=WORKFLOWS),
            serving(task_queue=place_queue(), activities=bound(SHARED, holders)),
            serving(task_queue=queue, activities=bound(OWN, holders)),
        ):
            await client.start_workflow(
                Host.run,
                HostInput(host=host, queue=queue),
                id=host_workflow_id(host),
                task_queue=WORKFLOW_QUEUE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            )
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            await stop.wait()


def bound(functions: Iterable[Callable[..., Any]], holders: tuple[object, ...]) -> list[Any]:
    """The functions as methods of the one holder that each belongs to."""
    owners = {type(holder).__name__: holder for holder in holders}
    return [getattr(owners[f.__qualname__.partition(".")[0]], f.__name__) for f in functions]
