"""Every Python example of docs/client.md runs, against the API of a fake host."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from temporalio.testing import WorkflowEnvironment

from tests.workflows.api_lab import ENGINE, serving
from tests.workflows.fake_engine import engine
from tests.workflows.pools import running_pool

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
RUN_ALL = """
import json, sys
for number, example in enumerate(json.load(sys.stdin)):
    exec(compile(example, f"example {number} of docs/client.md", "exec"), {"__name__": "__main__"})
"""
GIT = ("git", "-c", "user.name=T", "-c", "user.email=t@example.org")


def make_repository(folder: Path) -> None:
    folder.mkdir()
    for line in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*GIT, *line], cwd=folder, check=True)


async def test_the_examples_run(temporal: WorkflowEnvironment, tmp_path: Path) -> None:
    assert len(EXAMPLES) == PAGE.read_text().count("```python")
    make_repository(tmp_path / "workspace")
    async with (
        running_pool(temporal.client, "api") as pool,
        serving(pool, tmp_path / "state") as lab,
        engine(lab.state.paths.run / ENGINE, tmp_path / "workspace"),
    ):
        await pool.configure()
        environ = {
            **os.environ,
            "GREENROOM_STATE": str(lab.state.paths.root),
            "TEMPORAL_ADDRESS": temporal.client.service_client.config.target_host,
            "TEMPORAL_NAMESPACE": temporal.client.namespace,
        }
        # In one process: most of each one's time would be its imports.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", RUN_ALL, env=environ,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await process.communicate(json.dumps(EXAMPLES).encode())
        assert process.returncode == 0, err.decode()
        await pool.until(lambda status: not any(slot.claim_id for slot in status.containers))
