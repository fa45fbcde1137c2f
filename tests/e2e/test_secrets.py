"""Secrets by every route: their holder reads them, and nothing else ever shows them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.scanner import places
from tests.e2e.stack import PROGRAM, Stack

POOL = "hooked"
PLANTED = b"planted-4711-in-the-clear"
NAMES = ("PLAIN", "SECRET", "SEALED", "OWN", "LATE", "LATE_OWN")
VALUES = {name: f"value-{name.lower()}-0815" for name in NAMES}
SHOW = ("sh", "-c", 'env; cat /run/greenroom/secrets/*; cat "/tmp/hook"')


@dataclass
class Client:
    """Somebody with Temporal's own program and nothing else."""

    stack: Stack

    def temporal(self, *words: str) -> str:
        decided = json.loads(self.stack.paths.up.read_text())
        environ = {
            **os.environ, "TEMPORAL_ADDRESS": decided["temporal_address"],
            "TEMPORAL_NAMESPACE": decided["temporal_namespace"],
        }  # fmt: skip
        program = str(Path(PROGRAM).parent / "temporal")
        line = [program, "workflow", *words]
        return subprocess.run(line, env=environ, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def hooked(stack: Stack) -> Iterator[Stack]:
    """A pool of one with a claim hook, and the host's own secrets."""
    file = stack.folder / "hooked.yaml"
    file.write_text(
        stack.pool_file.read_text()
        .replace("name: demo", f"name: {POOL}")
        .replace("{min: 2, max: 8}", "{min: 1, max: 4}")
        + "hooks: {claim: ['sleep 1; env >/tmp/hook; echo hooked']}\n"
    )
    known = stack.paths.host_secrets
    known.write_text(
        f"OWN: {{command: [echo, {VALUES['OWN']}], pools: [{POOL}]}}\n"
        f"LATE_OWN: {{command: [echo, {VALUES['LATE_OWN']}]}}\n"
    )
    known.chmod(0o600)
    stack.ok("apply", str(file), "--wait")
    yield stack
    known.unlink()
    stack.ok("delete", POOL, "--force")


def test_no_secret_is_anywhere_but_with_its_holder(hooked: Stack, tmp_path: Path) -> None:
    stack, client = hooked, Client(hooked)
    (tmp_path / "secret").write_text(VALUES["SECRET"])
    sealed = {
        name: stack.ok("seal", POOL, f"{name}=-", stdin=VALUES[name].encode()).out.strip()
        for name in ("SEALED", "LATE")
    }
    stack.ok(
        *("claim", POOL, "--id", "by-api", "--env", f"PLAIN={VALUES['PLAIN']}"),
        *("--secret", f"SECRET=@{tmp_path / 'secret'}", "--sealed", f"SEALED={sealed['SEALED']}"),
        *("--host-secret", "OWN"),
    )
    shown = stack.ok("exec", "by-api", "--", *SHOW).out  # waits for the hook
    for name in ("PLAIN", "SECRET", "SEALED", "OWN"):
        assert shown.count(VALUES[name]) >= 2, name
    task = {
        "pool": POOL, "command": SHOW, "sealed": {"LATE": sealed["LATE"]},
        "host_secrets": ["LATE_OWN"],
    }  # fmt: skip
    told = client.temporal(
        *("execute", "--type", "Task", "--task-queue", "greenroom", "-o", "json"),
        *("--workflow-id", f"greenroom/task/{POOL}/by-temporal", "--input", json.dumps(task)),
    )
    result = json.loads(told)["result"]
    assert result["exit_code"] == 0
    assert "LATE=[secret]" in result["stdout_tail"]
    output = (Path(result["output"]) / "stdout").read_text()
    for name in ("LATE", "LATE_OWN"):
        assert output.count(VALUES[name]) >= 2, name
    # The controls: what everybody may see is found in each place, and so is a value by mistake.
    keeper = ("--workflow-id", f"greenroom/pool/{POOL}")
    claim = {"claim_id": "careless", "secrets": {"A": PLANTED.decode()}}
    client.temporal("signal", *keeper, "--name", "claim", "--input", json.dumps(claim))
    client.temporal("result", "--workflow-id", f"greenroom/wait/{POOL}/careless")
    assert places(stack, PLANTED) == {"temporal"}
    everywhere = places(stack, POOL.encode())
    assert everywhere >= {"temporal", "docker inspect", "logs and state", "metrics"}
    assert "image layers" in places(stack, b"hello from the repository")
    logs = stack.ok("logs", "by-api").out
    assert "hooked" in logs
    stack.ok("release", "by-api")
    for name, value in VALUES.items():
        assert places(stack, value.encode()) == set(), name
