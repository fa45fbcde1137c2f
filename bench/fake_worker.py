"""A worker whose containers exist only as words: what is left is the keeper, Temporal and the API.

python -m bench.fake_worker ADDRESS POOL [sandbox]
"""

from __future__ import annotations

import asyncio
import sys

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from greenroom.core.names import WORKFLOW_QUEUE, place_queue
from tests.workflows.fake_host import FakeHost
from worker import WORKFLOWS

QUEUE = "greenroom/host/fake"


async def main(address: str, pool: str, sandbox: str = "") -> None:
    """Serve until the process is ended."""
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    host = FakeHost(pool=pool, queue=QUEUE)
    flows = Worker(
        client, task_queue=WORKFLOW_QUEUE, workflows=WORKFLOWS, max_cached_workflows=5000,
        workflow_runner=SandboxedWorkflowRunner() if sandbox else UnsandboxedWorkflowRunner(),
    )  # fmt: skip
    placing = Worker(client, task_queue=place_queue(), activities=host.place_activities())
    hosting = Worker(client, task_queue=QUEUE, activities=host.host_activities())
    await asyncio.gather(flows.run(), placing.run(), hosting.run())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
