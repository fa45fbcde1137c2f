"""Groups of containers, the queue as people see it, and claims that ended long ago."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio.client import WorkflowFailureError

from greenroom.core.errors import EngineError
from greenroom.core.lifecycle import EndReason
from tests.workflows.api_lab import ApiLab, serving
from tests.workflows.pools import Pool, refused


@pytest_asyncio.fixture(loop_scope="session")
async def lab(pool: Pool, tmp_path: Path) -> AsyncIterator[ApiLab]:
    async with serving(pool, tmp_path) as lab:
        await pool.configure(size={"min": 3, "max": 8})
        await pool.until(lambda status: status.counts.ready == 3)
        yield lab


async def test_a_group_is_granted_whole_armed_and_the_same_when_asked_again(lab: ApiLab) -> None:
    name = lab.pool.name
    lab.host.dying = 1
    first = await lab.cli("claim", name, "--count", "5", "--id", "g", "--json")
    assert first.code == 0, first.err
    claims = first.json["claims"]
    assert [claim["claim_id"] for claim in claims] == [f"g.{n}" for n in range(1, 6)]
    assert len({claim["container"] for claim in claims} - lab.host.dead) == 5
    assert all(claim["armed"] for claim in claims)
    assert set(lab.host.personal) == {claim["claim_id"] for claim in claims}
    again = await lab.cli("claim", name, "--count", "5", "--id", "g", "--json")
    assert [(c["claim_id"], c["token"]) for c in again.json["claims"]] == [
        (c["claim_id"], c["token"]) for c in claims
    ]
    other = await lab.cli("claim", name, "--count", "4", "--id", "g", "--json")
    assert other.code == 2
    assert "count is 5 there and 4 here" in other.json["message"]
    member = await lab.cli("claim", name, "--id", "g.2", "--json")
    assert (member.code, member.json["error"]) == (2, "conflict")
    released = await lab.cli("release", "g.3", "--json")
    assert released.code == 0, released.err
    status = await lab.pool.status()
    assert {slot.group for slot in status.containers if slot.claim_id} == {"g"}


async def test_a_group_waits_with_its_place_in_line_and_partial_takes_what_is_there(
    lab: ApiLab,
) -> None:
    name = lab.pool.name
    made = lab.pool.host.gate("clone_in")
    waiting = await lab.start("claim", name, "--count", "6", "--id", "big", "--json")
    await lab.pool.until(lambda status: status.queue == 1)
    assert (await lab.pool.status()).target == 8
    small = await lab.start("claim", name, "--id", "small", "--json")
    await lab.pool.until(lambda status: status.queue == 2)
    listed = (await lab.cli("claims", "--json")).json
    assert [(c["claim_id"], c["state"], c["position"], c["count"]) for c in listed] == [
        ("big", "queued", 1, 6),
        ("small", "queued", 2, 1),
    ]
    assert listed[0]["eta_s"] <= listed[1]["eta_s"]
    assert {claim["miss_reason"] for claim in listed} == {"pool_empty"}
    shown = await lab.cli("claims", "big", "--json")
    assert (shown.json["state"], shown.json["position"]) == ("queued", 1)
    assert "big" in (await lab.cli("status", name)).out
    urgent = await lab.cli(
        *("claim", name, "--count", "9", "--partial", "--priority", "7", "--json")
    )
    assert (urgent.code, "size.max is 8" in urgent.json["message"]) == (2, True)
    partial = await lab.cli(
        *("claim", name, "--count", "8", "--partial", "--priority", "7", "--json")
    )
    assert partial.code == 0, partial.err
    assert len(partial.json["claims"]) == 3
    assert all(claim["warm"] for claim in partial.json["claims"])
    for claim in partial.json["claims"]:
        assert (await lab.cli("release", claim["claim_id"], "--discard")).code == 0
    made.set()
    out, _ = await waiting.communicate()
    assert waiting.returncode == 0, out
    assert (await small.communicate()) is not None
    assert small.returncode == 0


async def test_a_group_that_cannot_be_armed_holds_nothing(lab: ApiLab) -> None:
    lab.host.trouble = EngineError("Docker does not answer")
    claimed = await lab.cli("claim", lab.pool.name, "--count", "3")
    assert claimed.code == 5, claimed.err
    await lab.pool.until(lambda status: not any(slot.claim_id for slot in status.containers))


async def test_cancelling_the_wait_of_a_group_gives_all_of_it_back(pool: Pool) -> None:
    install = pool.host.gate("install_in")
    await pool.configure(size={"min": 3, "max": 8})
    await pool.claim("g", count=3, wait_s=600)
    await pool.until_true(lambda: len(pool.host.subjects("install_in")) >= 3)
    await pool.workers.stop()
    install.set()
    await pool.wait("g").cancel()
    await pool.workers.start()
    with pytest.raises(WorkflowFailureError):
        await pool.verdict("g")
    await pool.until(lambda status: status.counts.ready >= 3 and status.counts.claimed == 0)


async def test_a_quota_holds_its_holder_back_and_nobody_else(pool: Pool) -> None:
    await pool.configure(size={"min": 3, "max": 8}, claims={"per_holder": 2, "queue": 1})
    await pool.until(lambda status: status.counts.ready == 3)
    leases = [await pool.grant(f"a{n}", holder="a") for n in range(2)]
    with refused("no_container") as found:
        await pool.claim("a2", holder="a")
    assert found[0].details[0]["miss_reason"] == "quota"
    reply = await pool.claim("a2", holder="a", wait_s=600)
    assert reply.queued is not None
    assert reply.queued.miss_reason == "quota"
    with refused("no_container") as found:
        await pool.claim("a3", holder="a", wait_s=600)
    assert "claims.queue is 1" in found[0].message
    await pool.grant("b", holder="b")
    await pool.release(leases[0])
    verdict = await pool.verdict("a2")
    assert verdict.lease is not None
    assert (verdict.lease.warm, verdict.lease.miss_reason) == (False, "quota")


async def test_a_claim_that_ended_is_found_by_its_container(lab: ApiLab) -> None:
    claimed = await lab.cli("claim", lab.pool.name, "--id", "old", "--json")
    live = await lab.cli("claims", "old", "--json")
    assert (live.json["state"], live.json["token"]) == ("claimed", claimed.json["token"])
    await lab.cli("release", "old")
    lab.host.slots.clear()  # as the host does at the end
    handle = lab.pool.container(claimed.json["container"])
    assert await handle.result() == EndReason.RELEASED
    for _ in range(100):  # Temporal's visibility follows in its own time
        ended = await lab.cli("claims", "old", "--json")
        if ended.code == 0 and ended.json["reason"]:
            break
        await asyncio.sleep(0.1)
    assert ended.code == 0, ended.err
    assert ended.json["state"] == "ended"
    assert (ended.json["container"], ended.json["reason"], ended.json["pool"]) == (
        claimed.json["container"],
        "released",
        lab.pool.name,
    )
    assert (await lab.cli("claims", "never", "--json")).code == 4
