"""Any program with Temporal's own CLI can use a pool: docs/temporal.md, run as it stands."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from greenroom.core.sealed import Content
from greenroom.core.task_messages import RunResult
from greenroom.sealing import PrivateKey
from tests.workflows.pools import Pool
from tests.workflows.server import temporal_binary

PAGE = Path(__file__).parents[2] / "docs" / "temporal.md"
SEALED = PrivateKey.new().public.seal(Content(pool="api", name="NPM_TOKEN", value="s3cr3t"))


def commands() -> Iterator[str]:
    """Every line of the page's ``sh`` blocks, in order."""
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        yield from block.splitlines()


@dataclass
class Terminal:
    """A shell in which ``CONTAINER`` and ``TOKEN`` are always those of the last lease shown."""

    pool: Pool
    variables: dict[str, str] = field(default_factory=lambda: {"SEALED": SEALED})

    async def run(self, line: str) -> Any:
        """One command of the page, on the pool of the test; its document."""
        assert line.startswith("temporal "), line
        address = self.pool.client.service_client.config.target_host
        folder = Path(temporal_binary()).parent
        process = await asyncio.create_subprocess_shell(
            re.sub(r"/api\b|\"api\"", lambda found: found[0].replace("api", self.pool.name), line),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self.variables, "TEMPORAL_ADDRESS": address,
                 "PATH": f"{folder}:{os.environ['PATH']}"},
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, f"{line}\n{err.decode()}"
        found = json.loads(out) if line.endswith("-o json") else None
        lease = (found or {}).get("result", {})
        lease = lease.get("lease") if isinstance(lease, dict) else None
        if lease:
            self.variables |= {
                "CONTAINER": lease["container_workflow"], "TOKEN": str(lease["token"]),
            }  # fmt: skip
        return found


async def test_the_page_does_what_it_says(full: Pool) -> None:
    terminal, told = Terminal(full), {}
    full.host.gate("run_task:build-8")
    full.host.results["build-7"] = RunResult(outcome="exited", exit_code=2, stdout_tail="FAILED")
    for line in commands():
        if "signal" in line and "claim" in line:
            await full.until_ready(2)
        found = await terminal.run(line)
        words = line.split()
        told[words[2], line.partition("--workflow-id ")[2].split()[0].rpartition("/")[2],
             line.partition("--name ")[2].partition(" ")[0]] = found  # fmt: skip
        if "--workflow-id greenroom/task/api/build-8" in line and words[2] == "start":
            await full.until_true(
                lambda: "build-8" in {run.lease.claim_id for run in full.host.runs}
            )
        if "cancel" in line:
            await full.until(lambda s: "build-8" not in {c.claim_id for c in s.containers})
        if words[2] == "signal" and "claim" in line:
            await full.verdict("ci-2")  # `temporal workflow result` does not wait for a start
    result = told["result", "build-7", ""]["result"]
    assert (result["outcome"], result["exit_code"]) == ("exited", 2)
    assert result["saved"]["files"] == ["work.bundle"]
    (state,) = told["query", "build-7", "state"]["queryResult"]
    assert state["claim_id"] == "build-7"
    claimed = told["update", "api", "claim"]["result"]
    assert claimed["outcome"] == "granted"
    assert told["query", "api", "lease"]["queryResult"] == [claimed["lease"]]
    assert told["update", "$CONTAINER", "release"]["result"]["saved"]["state"] == "saved"
    assert told["result", "ci-2", ""]["result"]["lease"]["claim_id"] == "ci-2"
    assert told["result", "deploy-1", ""]["result"]["outcome"] == "exited"
    brought = full.host.brought["deploy-1"]
    assert brought.sealed == {"NPM_TOKEN": SEALED}
    assert brought.host_secrets == ("DEPLOY_KEY",)
    (status,) = told["query", "api", "status"]["queryResult"]
    assert status["pool"] == full.name
    await full.until(lambda s: not any(c.claim_id for c in s.containers))
    ends = {end.claim_id for end in full.host.ends}
    assert ends == {"build-7", "build-8", "ci-1", "ci-2", "deploy-1"}
