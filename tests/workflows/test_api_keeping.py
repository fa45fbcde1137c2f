"""Keeping a claim over the API and the command line: heartbeat, hold, transfer, saved work."""

from __future__ import annotations

import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio

from activities.slotfiles import write_slot
from greenroom.core.errors import UsageError
from greenroom.core.slotfile import HostLease, SlotRecord
from tests.workflows.api_lab import ApiLab, serving
from tests.workflows.pools import Pool


@pytest_asyncio.fixture(loop_scope="session")
async def lab(pool: Pool, tmp_path: Path) -> AsyncIterator[ApiLab]:
    async with serving(pool, tmp_path) as lab:
        await pool.configure()
        await pool.until(lambda status: status.counts.ready == 2)
        yield lab


async def claimed(lab: ApiLab, claim: str, *more: str) -> Any:
    done = await lab.cli("claim", lab.pool.name, "--id", claim, *more, "--json")
    assert done.code == 0, done.err
    return done.json


async def test_a_heartbeat_reaches_the_host_and_nobody_else(lab: ApiLab) -> None:
    lease = await claimed(lab, "h1", "--heartbeat", "30s")
    await lab.pool.until(lambda status: status.counts.ready == 2)
    handle = lab.pool.container(lease["container"])
    before = (
        (await handle.describe()).history_length,
        (await lab.pool.keeper.describe()).history_length,
    )
    done = await lab.cli("heartbeat", "h1", "--once", "--json")
    assert (done.json["heartbeat_s"], done.json["held"]) == (30, False)
    assert lab.host.beats == [lease["container"]]
    refused = await lab.cli("heartbeat", "h1", "--once", "--token", "99")
    assert refused.code == 4
    assert lab.host.beats == [lease["container"]]
    after = (
        (await handle.describe()).history_length,
        (await lab.pool.keeper.describe()).history_length,
    )
    assert after == before


async def test_heartbeats_go_on_until_the_claim_ends(lab: ApiLab) -> None:
    lease = await claimed(lab, "h2", "--heartbeat", "30s")
    process = await lab.start("heartbeat", "h2", "--every", "0.05s")
    await lab.pool.until_true(lambda: len(lab.host.beats) >= 3)
    slot = lab.host.slots[lease["container"]]
    assert slot.lease is not None
    ended = slot.lease.model_copy(update={"ended": True, "end_reason": "abandoned"})
    lab.host.slots[lease["container"]] = slot.model_copy(update={"lease": ended})
    _, err = await process.communicate()
    assert process.returncode == 4
    assert b"ended: abandoned" in err


async def test_a_hold_is_shown(lab: ApiLab) -> None:
    await claimed(lab, "h3")
    held = await lab.cli("hold", "h3", "--for", "2h", "--json")
    assert held.code == 0, held.err
    assert held.json["held"] is True
    await lab.pool.until(lambda status: any(slot.held for slot in status.containers))
    assert ", held" in (await lab.cli("claims")).out
    assert ", held" in (await lab.cli("status", lab.pool.name)).out
    refused = await lab.cli("hold", "h3", "--for", "2d")
    assert refused.code == 2
    assert "lease.max_hold" in refused.err


async def test_a_transfer_gives_a_new_token_and_refuses_the_old_one(lab: ApiLab) -> None:
    lease = await claimed(lab, "t1")
    passed = await lab.cli("transfer", "t1", "--to", "bob", "--json")
    assert passed.code == 0, passed.err
    assert passed.json["holder"] == "bob"
    assert passed.json["token"] > lease["token"]
    assert passed.json["container"] == lease["container"]
    again = await lab.cli("transfer", "t1", "--to", "bob", "--token", str(lease["token"]), "--json")
    assert again.json == passed.json
    old = ("--token", str(lease["token"]))
    for line in (
        ("exec", *old, "t1", "--", "true"),
        ("extend", "t1", "--ttl", "5m", *old),
        ("hold", "t1", *old),
        ("heartbeat", "t1", "--once", *old),
        ("transfer", "t1", "--to", "eve", *old),
        ("release", "t1", *old),
    ):
        refused = await lab.cli(*line)
        assert refused.code in {4, 122}, line
        assert "token" in refused.err, line
    new = ("--token", str(passed.json["token"]))
    assert (await lab.cli("extend", "t1", "--ttl", "2h", *new)).code == 0
    assert (await lab.cli("release", "t1", *new, "--json")).code == 0


async def test_a_bad_request_costs_no_container(lab: ApiLab) -> None:
    lab.host.unfit = UsageError("'a b' cannot name a variable")
    before = (await lab.pool.keeper.describe()).history_length
    refused = await lab.cli("claim", lab.pool.name, "--env", "a b=1")
    assert refused.code == 2
    assert "cannot name a variable" in refused.err
    assert (await lab.pool.keeper.describe()).history_length == before


def keep(lab: ApiLab, pool: str, claim: str, **told: object) -> Path:
    place = lab.state.paths.saved_claim(pool, claim)
    place.mkdir(parents=True)
    record = {"state": "saved", "commits": 1, "changed": 2, "reason": "expired", "base": "0" * 40}
    (place / "saved.json").write_text(json.dumps({**record, **told}))
    (place / "work.patch").write_text("a patch")
    (place / "commits.txt").write_text("abc Ada: fix it\n")
    (place / "changed.txt").write_text("M\ta.txt\nA\tb.txt\n")
    (place / "ignored.txt").write_text("built/\n")
    (place / "stray").write_text("not ours")
    return place


async def test_saved_work_is_shown_exported_and_deleted(lab: ApiLab, tmp_path: Path) -> None:
    place = keep(lab, "api", "s1")
    shown = await lab.cli("saved", "show", "s1", "--json")
    assert shown.code == 0, shown.err
    assert shown.json["reason"] == "expired"
    assert shown.json["commit_lines"] == ["abc Ada: fix it"]
    assert shown.json["changed_files"] == ["M\ta.txt", "A\tb.txt"]
    assert shown.json["ignored_files"] == ["built/"]
    people = (await lab.cli("saved", "show", "s1")).out
    assert "1 commit\n  abc Ada: fix it\n2 changed files\n" in people
    assert "s1" in (await lab.cli("saved")).out
    archive = tmp_path / "out.tar.gz"
    exported = await lab.cli("saved", "export", "s1", str(archive))
    assert exported.code == 0, exported.err
    with tarfile.open(archive) as packed:
        assert sorted(packed.getnames()) == [
            "changed.txt", "commits.txt", "ignored.txt", "saved.json", "work.patch",
        ]  # fmt: skip
    assert (await lab.cli("saved", "delete", "s1")).code == 0
    assert not place.exists()
    for line in (("show",), ("export", str(archive)), ("delete",)):
        gone = await lab.cli("saved", line[0], "s1", *line[1:])
        assert gone.code == 4, gone.err


async def test_a_claim_id_of_two_pools_needs_the_pools_name(lab: ApiLab) -> None:
    keep(lab, "one", "s2")
    keep(lab, "two", "s2")
    asked = await lab.cli("saved", "show", "s2")
    assert asked.code == 2
    assert "one, two" in asked.err
    assert (await lab.cli("saved", "show", "s2", "--pool", "two", "--json")).json["pool"] == "two"


async def test_work_that_could_not_be_saved_is_listed_and_says_where_it_is(lab: ApiLab) -> None:
    lease = HostLease(claim_id="s3", token=1, expires_at=0.0, ended=True, end_reason="released")
    record = SlotRecord(
        container="c9", pool="api", docker_id="d" * 64, unsaved="git is broken", lease=lease
    )
    write_slot(lab.state.paths, record)
    shown = (await lab.cli("saved", "show", "s3", "--json")).json
    assert (shown["state"], shown["detail"]) == ("unsaved", "git is broken")
    refused = await lab.cli("saved", "apply", "s3", ".")
    assert refused.code == 2
    assert f"docker cp {'d' * 12}:/workspace" in refused.err
