"""A real Temporal dev server, one worker with a fake host, and a pool to talk to."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

# Its pytest plugin imports it at the end of the session, and compiling that much while workflows
# are collected as garbage fails on Python 3.11.2 ("AST constructor recursion depth mismatch").
import hypothesis.internal.observability  # noqa: F401
import pytest
import pytest_asyncio
from temporalio.testing import WorkflowEnvironment

from tests.workflows.pools import Pool, running_pool
from tests.workflows.server import dev_server

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One event loop for all of this folder: they share one server."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with dev_server() as environment:
        yield environment


@pytest_asyncio.fixture(loop_scope="session")
async def pool(temporal: WorkflowEnvironment) -> AsyncIterator[Pool]:
    """A pool of its own on the shared server; nothing of it is left open at the end."""
    async with running_pool(temporal.client, f"p{uuid.uuid4().hex[:12]}") as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def full(pool: Pool) -> Pool:
    """A pool whose two containers are ready."""
    await pool.configure()
    await pool.until_ready(2)
    return pool
