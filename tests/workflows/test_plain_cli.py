"""Any program with Temporal's own CLI can use a pool: plain JSON in, plain JSON out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.workflows.pools import Pool
from tests.workflows.server import temporal_binary


async def temporal(pool: Pool, *words: str) -> Any:
    """Run one ``temporal workflow …`` on the keeper or another workflow; its JSON."""
    address = pool.client.service_client.config.target_host
    process = await asyncio.create_subprocess_exec(
        temporal_binary(), "workflow", *words, "--address", address, "--output", "json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out) if out.strip() else None


async def test_claim_query_and_release(full: Pool) -> None:
    keeper = ("--workflow-id", full.keeper.id)
    claim = json.dumps({"claim_id": "a", "holder": "ci"})
    told = await temporal(full, "update", "execute", *keeper, "--name", "claim", "--input", claim)
    lease = told["result"]["lease"]
    assert told["result"]["outcome"] == "granted"
    assert (lease["claim_id"], lease["holder"], lease["host"]) == ("a", "ci", full.name)
    told = await temporal(full, "query", *keeper, "--name", "status")
    (status,) = told["queryResult"]
    assert status["counts"]["claimed"] == 1
    told = await temporal(full, "query", *keeper, "--name", "lease", "--input", '{"claim_id": "a"}')
    assert told["queryResult"] == [lease]
    release = json.dumps({"claim_id": "a", "token": lease["token"]})
    await temporal(full, "signal", *keeper, "--name", "release", "--input", release)
    await full.until_gone(lease["container"])
    told = await temporal(full, "result", "--workflow-id", lease["container_workflow"])
    assert told["result"] == "released"


async def test_claim_by_signal_and_release_by_update(full: Pool) -> None:
    keeper = ("--workflow-id", full.keeper.id)
    await temporal(full, "signal", *keeper, "--name", "claim", "--input", '{"claim_id": "a"}')
    await full.verdict("a")
    told = await temporal(full, "result", "--workflow-id", full.wait("a").id)
    lease = told["result"]["lease"]
    container = ("--workflow-id", lease["container_workflow"])
    token = json.dumps({"claim_id": "a", "token": lease["token"]})
    told = await temporal(full, "update", "execute", *container, "--name", "arm", "--input", token)
    assert told["result"]["armed"] is True
    told = await temporal(
        full, "update", "execute", *container, "--name", "release", "--input", token
    )
    assert told["result"]["saved"]["files"] == ["work.bundle"]
