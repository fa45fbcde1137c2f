"""Detached commands and secrets through the command line, on a host without Docker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from activities.host_secrets import Wanted, fetch
from activities.personal import Personal
from greenroom.core.names import task_workflow_id
from greenroom.core.task_messages import RunResult
from tests.workflows.api_lab import ApiLab, serving
from tests.workflows.pools import Pool, history_of

SECRET, MODE = b"s3cr3t-value", b"mode-value"


@pytest_asyncio.fixture(loop_scope="session")
async def lab(full: Pool, tmp_path: Path) -> AsyncIterator[ApiLab]:
    async with serving(full, tmp_path) as lab:
        yield lab


def secrets_file(lab: ApiLab, text: str, mode: int = 0o600) -> None:
    path = lab.state.paths.host_secrets
    path.write_text(text)
    path.chmod(mode)


async def test_run_detached_task_and_logs(lab: ApiLab, tmp_path: Path) -> None:
    name, host = lab.pool.name, lab.pool.host
    (tmp_path / "secret").write_bytes(SECRET)
    folder = lab.state.paths.task(name, "d1")
    folder.mkdir(parents=True)
    (folder / "stdout").write_text("so far\n")
    gate = host.gate("run_task:d1")
    host.results["d1"] = RunResult(outcome="exited", exit_code=5, stdout_tail="the end\n")
    started = await lab.cli(
        *("run", "--detach", name, "--id", "d1", "--timeout", "1m"),
        *("--env", f"MODE={MODE.decode()}", "--secret", f"TOKEN=@{tmp_path / 'secret'}"),
        *("--", "make", "it"),
    )  # fmt: skip
    assert started.code == 0, started.err
    assert started.out == f"{task_workflow_id(name, 'd1')}\n"
    await lab.pool.until_true(lambda: bool(host.runs))
    assert (host.runs[0].command, host.runs[0].timeout_s) == (("make", "it"), 60)
    shown = (await lab.cli("task", "d1", "--json")).json
    assert (shown["state"], shown["phase"], shown["stdout_tail"]) == (
        "running", "running", "so far\n",
    )  # fmt: skip
    gate.set()
    ended = await lab.cli("task", started.out.strip(), "--wait", "--json")
    assert ended.code == 0, ended.err
    assert ended.json["result"]["exit_code"] == 5
    assert ended.json["stdout_tail"] == "the end\n"
    logs = (await lab.cli("logs", "d1", "--json")).json
    assert [(part["name"], part["text"]) for part in logs["parts"]] == [("stdout", "so far\n")]
    opened = fetch(lab.state.paths, Wanted(name, "d1", dict(host.brought["d1"].sealed)), Personal())
    assert opened.env == {"MODE": MODE.decode()}
    assert opened.secrets == {"TOKEN": SECRET.decode()}
    task = lab.pool.client.get_workflow_handle(started.out.strip())
    for handle in (task, lab.pool.keeper, lab.pool.container(shown["container"])):
        history = await history_of(handle)
        assert b"d1" in history
        assert SECRET not in history
        assert MODE not in history
    again = await lab.cli("run", "--detach", name, "--id", "d1", "--", "true")
    assert again.code == 120


async def test_a_task_that_fails_says_why(lab: ApiLab) -> None:
    first = await lab.cli("claim", lab.pool.name, "--id", "used", "--json")
    await lab.cli("release", "used")
    lab.host.slots.pop(first.json["container"])
    await lab.pool.until(lambda s: not any(c.claim_id for c in s.containers))
    await lab.cli("run", "--detach", lab.pool.name, "--id", "used", "--", "true")
    ended = await lab.cli("task", "used", "--wait")
    assert ended.code == 4
    assert "claim used ended: released" in ended.err
    assert (await lab.cli("task", "unknown")).code == 4
    assert (await lab.cli("run", "--detach", "no-such-pool", "--", "true")).code == 122


async def test_every_way_to_give_a_secret_ends_in_the_same_place(
    lab: ApiLab, tmp_path: Path
) -> None:
    name = lab.pool.name
    (tmp_path / "own").write_text("of-the-host")
    secrets_file(
        lab, f"KEY: {{file: {tmp_path / 'own'}, pools: [{name}]}}\nNOT: {{env: HOME, pools: []}}\n"
    )
    sealed = await lab.cli("seal", name, "TOKEN=-", "--claim", "s1", stdin=b"of-the-caller")
    assert sealed.code == 0, sealed.err
    token = f"TOKEN={sealed.out.strip()}"
    for other in ("s2", ""):
        refused = await lab.cli("claim", name, "--id", other, "--sealed", token)
        assert refused.code == 2
        assert "for another claim" in refused.err
    refused = await lab.cli("claim", name, "--host-secret", "NOT", "--json")
    assert (refused.code, refused.json["error"]) == (2, "secret")
    assert not [slot for slot in (await lab.pool.status()).containers if slot.claim_id]
    claimed = await lab.cli(
        *("claim", name, "--id", "s1", "--sealed", token, "--host-secret", "KEY", "--json")
    )
    assert claimed.code == 0, claimed.err
    given = lab.host.personal["s1"].secrets
    assert given == {"TOKEN": "of-the-caller", "KEY": "of-the-host"}
    history = await history_of(lab.pool.keeper)
    assert b"grs1." not in history  # the API opens it: nothing of it is Temporal's business


async def test_sealing_without_the_api(lab: ApiLab, tmp_path: Path) -> None:
    name = lab.pool.name
    key = tmp_path / "key"
    key.write_text((await lab.cli("seal", name, "--key")).out)
    assert lab.state.paths.pool_key(name).stat().st_mode & 0o077 == 0
    one = await lab.cli("seal", name, "--key-file", str(key), "A=-", "--json", stdin=b"x")
    assert fetch(lab.state.paths, Wanted(name, "any", one.json), Personal()).secrets == {"A": "x"}
    key.write_text("nonsense")
    assert (await lab.cli("seal", name, "--key-file", str(key), "A=-")).code == 2
    assert (await lab.cli("seal", name, "A=value")).code == 2


async def test_exec_waits_for_hooks_and_claims_tell_of_a_failed_one(lab: ApiLab) -> None:
    await lab.cli("claim", lab.pool.name, "--id", "h1")
    (container,) = lab.host.slots
    slot = lab.host.slots[container]
    lab.host.slots[container] = slot.model_copy(update={"hooks": True})
    (waiting,) = (await lab.cli("claims", "--json")).json
    assert waiting["hooks"] == "running"
    lease = slot.lease.model_copy(update={"hooks_done": True, "failed_hook": "claim hook 1 failed"})
    lab.host.slots[container] = slot.model_copy(update={"hooks": True, "lease": lease})
    told = await lab.cli("claims")
    assert "h1: claim hook 1 failed" in told.err
