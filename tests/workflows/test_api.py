"""The API and the command line over real workflows, on a host without Docker."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from greenroom.core.errors import EngineError, GreenroomError, UsageError
from greenroom.core.messages import ClaimRequest
from greenroom.core.policy import Phase
from greenroom.core.slotfile import HostLease, SlotRecord
from tests.workflows.api_lab import ApiLab, serving
from tests.workflows.pools import Pool, history_of

DOCUMENT = {
    "claim_id", "pool", "container", "container_workflow", "host", "commit", "fingerprint",
    "snapshot_age_s", "warm", "miss_reason", "waited_s", "stages_ms", "armed", "expires_at",
    "token",
}  # fmt: skip


@pytest_asyncio.fixture(loop_scope="session")
async def lab(pool: Pool, tmp_path: Path) -> AsyncIterator[ApiLab]:
    async with serving(pool, tmp_path) as lab:
        await pool.configure()
        await pool.until(lambda status: status.counts.ready == 2)
        yield lab


async def test_claim_prints_the_designed_document_and_release_ends_it(lab: ApiLab) -> None:
    name = lab.pool.name
    claimed = await lab.cli("claim", name, "--id", "c1", "--label", "a=b", "--json")
    assert claimed.code == 0, claimed.err
    assert set(claimed.json) == DOCUMENT
    assert claimed.json["warm"] is True
    assert claimed.json["armed"] is True
    assert set(claimed.json["stages_ms"]) == {"keeper", "arm", "total"}
    listed = await lab.cli("claims", "--json")
    assert [claim["claim_id"] for claim in listed.json] == ["c1"]
    released = await lab.cli("release", "c1", "--json")
    assert released.code == 0, released.err
    assert released.json["saved"]["state"] == "saved"
    lab.host.slots.clear()  # as the host does at the end
    again = await lab.cli("release", "c1")
    assert again.code == 4
    assert again.err.strip().splitlines()[-1].startswith("greenroom: ")


async def test_the_same_id_gets_the_same_container_and_another_request_is_refused(
    lab: ApiLab,
) -> None:
    name = lab.pool.name
    first = await lab.cli("claim", name, "--id", "c2", "--json")
    second = await lab.cli("claim", name, "--id", "c2", "--json")
    assert second.json["container"] == first.json["container"]
    assert second.json["token"] == first.json["token"]
    other = await lab.cli("claim", name, "--id", "c2", "--ttl", "5m", "--json")
    assert other.code == 2
    assert other.json["error"] == "conflict"


async def test_an_id_that_lives_in_another_pool_of_the_host_is_refused(lab: ApiLab) -> None:
    """Who asks by the id alone must not reach a stranger's container."""
    lease = HostLease(claim_id="theirs", token=1, expires_at=0.0, policy_armed=True)
    lab.host.slots["X"] = SlotRecord(container="X", pool="other", phase=Phase.CLAIMED, lease=lease)
    refused = await lab.cli("claim", lab.pool.name, "--id", "theirs", "--json")
    assert (refused.code, refused.json["error"]) == (2, "conflict")
    assert (await lab.pool.status()).counts.claimed == 0
    lab.host.slots["X"] = lab.host.slots["X"].model_copy(update={"phase": Phase.ENDED})
    assert (await lab.cli("claim", lab.pool.name, "--id", "theirs", "--json")).code == 0


async def test_personal_parts_reach_the_host_and_never_temporal(
    lab: ApiLab, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t-value")
    claimed = await lab.cli(
        *("claim", lab.pool.name, "--id", "c3", "--env", "A=env-value"),
        *("--secret", f"TOKEN=@{secret}", "--file", f"blob={secret}", "--json"),
    )
    assert claimed.code == 0, claimed.err
    personal = lab.host.personal["c3"]
    assert personal.env == {"A": "env-value"}
    assert personal.secrets == {"TOKEN": "s3cr3t-value"}
    assert personal.files == {"blob": b"s3cr3t-value"}
    history = await history_of(lab.pool.keeper)
    assert b'"claim_id":"c3"' in history
    assert b"s3cr3t-value" not in history
    assert b"env-value" not in history


async def test_a_secret_on_the_command_line_is_refused(lab: ApiLab) -> None:
    claimed = await lab.cli("claim", lab.pool.name, "--secret", "TOKEN=plain")
    assert claimed.code == 2
    assert "TOKEN=@FILE" in claimed.err


async def test_a_dead_container_is_replaced_within_the_same_claim(lab: ApiLab) -> None:
    lab.host.dying = 1
    claimed = await lab.cli("claim", lab.pool.name, "--id", "c4", "--json")
    assert claimed.code == 0, claimed.err
    assert claimed.json["container"] not in lab.host.dead
    assert len(lab.host.dead) == 1


@pytest.mark.parametrize(
    ("trouble", "line", "code"),
    [
        (UsageError("the personal files are too large"), ("--id", "t1"), 2),
        (EngineError("Docker does not answer"), (), 5),
    ],
)
async def test_a_claim_that_cannot_be_armed_for_its_caller_holds_nothing(
    lab: ApiLab, trouble: GreenroomError, line: tuple[str, ...], code: int
) -> None:
    lab.host.trouble = trouble
    claimed = await lab.cli("claim", lab.pool.name, *line)
    assert claimed.code == code, claimed.err
    await lab.pool.until(lambda status: not any(slot.claim_id for slot in status.containers))


async def test_a_named_claim_is_kept_for_another_try(lab: ApiLab) -> None:
    lab.host.trouble = EngineError("Docker does not answer")
    first = await lab.cli("claim", lab.pool.name, "--id", "again")
    assert first.code == 5, first.err
    lab.host.trouble = None
    second = await lab.cli("claim", lab.pool.name, "--id", "again", "--json")
    assert second.code == 0, second.err
    assert second.json["token"] == 1


async def test_a_claim_that_finds_none_waits_for_the_next(lab: ApiLab) -> None:
    await lab.cli("claim", lab.pool.name, "--id", "w1")
    await lab.cli("claim", lab.pool.name, "--id", "w2")
    third = await lab.cli("claim", lab.pool.name, "--id", "w3", "--json")
    assert third.code == 0, third.err
    assert third.json["container"] not in {
        lab.host.slot_of_claim(c).container for c in ("w1", "w2")
    }


async def drained(lab: ApiLab) -> None:
    """No container is ready and none will be."""
    lab.pool.host.gates["clone_in"] = asyncio.Event()
    for number in range(2):
        await lab.pool.claim(f"d{number}")


async def test_none_within_the_wait_is_exit_3(lab: ApiLab) -> None:
    await drained(lab)
    at_once = await lab.cli("claim", lab.pool.name, "--wait", "0", "--json")
    assert at_once.code == 3
    assert at_once.json["error"] == "no_container"
    after_a_wait = await lab.cli("claim", lab.pool.name, "--wait", "1s", "--json")
    assert after_a_wait.code == 3, after_a_wait.err
    run = await lab.cli("run", lab.pool.name, "--wait", "0", "--", "true")
    assert run.code == 121
    lab.pool.host.gates["clone_in"].set()


async def test_an_interrupted_claim_leaves_nothing_behind(lab: ApiLab) -> None:
    await drained(lab)
    waiting = await lab.start("claim", lab.pool.name, "--id", "i1", "--wait", "5m")
    await lab.pool.until(lambda status: status.queue == 1)
    waiting.send_signal(signal.SIGINT)
    await waiting.communicate()
    assert waiting.returncode == 130
    await lab.pool.until(lambda status: status.queue == 0)
    lab.pool.host.gates["clone_in"].set()


async def test_pool_commands(lab: ApiLab) -> None:
    name = lab.pool.name
    assert name in [pool["pool"] for pool in (await lab.cli("pools", "--json")).json]
    shown = await lab.cli("status", name, "--json")
    assert shown.json["counts"]["ready"] == 2
    human = await lab.cli("status", name)
    assert "2 of 2 ready" in human.out
    assert (await lab.cli("status")).code == 0
    assert (await lab.cli("pause", name, "--json")).json["paused"] is True
    assert (await lab.cli("resume", name, "--json")).json["paused"] is False
    resized = await lab.cli("resize", name, "1", "--json")
    assert resized.json["changed"] == ["size.min: 2 → 1"]
    assert (await lab.cli("resize", name, "5", "--max", "3")).code == 2
    lab.pool.host.commit = "c2"
    refreshed = await lab.cli("refresh", name, "--wait", "--json")
    assert refreshed.code == 0, refreshed.err
    assert refreshed.json["commit"] == "c2"
    gone = await lab.cli("delete", name, "--json")
    assert gone.code == 0, gone.err
    unknown = await lab.cli("status", name, "--json")
    assert unknown.code == 4
    assert unknown.json["error"] == "not_found"


async def test_delete_is_refused_while_claims_live_unless_forced(lab: ApiLab) -> None:
    name = lab.pool.name
    await lab.cli("claim", name, "--id", "l1")
    refused = await lab.cli("delete", name, "--json")
    assert refused.code == 2
    assert refused.json["details"]["claims"] == "l1"
    forced = await lab.cli("delete", name, "--force", "--json")
    assert forced.code == 0, forced.err
    assert forced.json["ended_claims"] == ["l1"]


async def test_extend(lab: ApiLab) -> None:
    claimed = await lab.cli("claim", lab.pool.name, "--id", "e1", "--ttl", "5m", "--json")
    extended = await lab.cli("extend", "e1", "--ttl", "1h", "--json")
    assert extended.code == 0, extended.err
    assert extended.json["expires_at"] > claimed.json["expires_at"] + 3000
    fenced = await lab.cli("extend", "e1", "--ttl", "1h", "--token", "999", "--json")
    assert fenced.code == 4
    assert fenced.json["error"] == "fenced"


async def test_apply_makes_keeps_and_changes_a_pool(pool: Pool, tmp_path: Path) -> None:
    file = tmp_path / "pool.yaml"
    file.write_text(f"name: {pool.name}\nrepo: /r\nsize: {{min: 1, max: 3}}\n")
    async with serving(pool, tmp_path / "state") as lab:
        created = await lab.cli("apply", str(file), "--wait", "--json")
        assert created.code == 0, created.err
        assert created.json == [{"pool": pool.name, "created": True, "changed": []}]
        kept = lab.state.paths.pools / f"{pool.name}.yaml"
        assert pool.name in kept.read_text()
        file.write_text(file.read_text().replace("min: 1", "min: 2"))
        changed = await lab.cli("apply", str(file), "--json")
        assert changed.json[0]["changed"] == ["size.min: 1 → 2"]
        file.write_text("name: UPPER\nrepo: /r\n")
        wrong = await lab.cli("apply", str(file), "--json")
        assert wrong.code == 2
        assert wrong.json["error"] == "pool_file"
        await lab.cli("delete", pool.name)
        assert not kept.exists()


async def test_metrics_show_the_keepers_counts(lab: ApiLab) -> None:
    await lab.cli("claim", lab.pool.name, "--id", "m1")
    reader, writer = await asyncio.open_unix_connection(str(lab.state.paths.api_socket))
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    assert f'greenroom_containers{{pool="{lab.pool.name}",state="claimed"}} 1.0' in text
    assert f'greenroom_claims_total{{pool="{lab.pool.name}",reason="",result="warm"}} 1.0' in text
    assert f'greenroom_claim_seconds_count{{pool="{lab.pool.name}",warm="true"}} 1.0' in text
    assert f'greenroom_preparation_seconds_count{{pool="{lab.pool.name}"}}' in text


async def test_twenty_claims_at_once_get_twenty_containers(lab: ApiLab) -> None:
    await lab.pool.configure(size={"min": 20, "max": 40})
    await lab.pool.until(lambda status: status.counts.ready == 20)
    client = lab.state.client
    replies = await asyncio.gather(
        *(client.claim(lab.pool.name, ClaimRequest(claim_id=f"t{n}")) for n in range(20))
    )
    assert len({reply.lease.container for reply in replies if reply.lease}) == 20
