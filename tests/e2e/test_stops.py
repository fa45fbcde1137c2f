"""What stops as a whole, and what comes back: supervisor, Temporal, ``down`` and ``up``."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from tests.chaos import events as ev
from tests.e2e.conftest import running
from tests.e2e.rough import RoughStack, Shaken
from tests.e2e.stack import POOL, Stack


def supervisor(stack: Stack) -> int:
    return int(json.loads((stack.paths.run / "services.json").read_text())["supervisor"]["pid"])


def comes_back_the_same(shaken: Shaken, before: dict[str, Any]) -> None:
    """``up`` again: the pool, its counters, and no open workflow without its container."""
    stack = shaken.stack
    stack.ok("up", "--json")
    after = stack.full()
    shaken.recorder.record(ev.PoolAtTarget(time.time(), POOL))
    for name in ("claims_warm", "claims_cold", "commit", "fingerprint", "target"):
        assert after[name] == before[name], name
    events = stack.workflow_events()
    closed = {e.owner for e in events if isinstance(e, ev.WorkflowClosed)}
    opened = {e.owner for e in events if isinstance(e, ev.WorkflowOpen)}
    ledger = {slot["container"] for slot in after["containers"]}
    containers = {owner for owner in opened - closed if len(owner) == 26}  # a ULID's length
    assert containers == ledger
    shaken.nothing_is_left_over()


def test_a_killed_supervisor_and_up_again(shaken: Shaken) -> None:
    stack = shaken.stack
    lease = shaken.claim("--id", "outlives")
    status = stack.status()
    with shaken.fault("kill -9 supervisor"):
        os.kill(supervisor(stack), signal.SIGKILL)
        stack.ok("up", "--json")
    assert shaken.exec(lease, "true").code == 0
    again = shaken.claim_through("outlives")
    assert (again["container"], again["token"]) == (lease["container"], lease["token"])
    shaken.release(lease, "--discard")
    after = stack.full()
    assert after["commit"] == status["commit"]
    shaken.recorder.record(ev.PoolAtTarget(time.time(), POOL))


def test_without_temporal_commands_say_so_with_code_5(shaken: Shaken) -> None:
    stack = shaken.stack
    lease = shaken.claim("--id", "waits")
    keeping, pid = supervisor(stack), stack.service("temporal")["pid"]
    with shaken.fault("kill -9 temporal, and nobody starts it again"):
        os.kill(keeping, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            for line in (("status", POOL), ("claim", POOL)):
                done = stack.cli(*line)
                assert done.code == 5, done.err
                (said,) = done.err.splitlines()
                assert said.startswith("greenroom: Temporal refuses connections"), said
            # A claimed container is of use all the same: its lease is the host's business.
            assert shaken.exec(lease, "true").code == 0
        finally:
            os.kill(keeping, signal.SIGCONT)
    shaken.release(lease, "--discard")
    stack.full()
    shaken.recorder.record(ev.PoolAtTarget(time.time(), POOL))


def test_two_installs_on_one_engine_do_not_touch_each_other(shaken: Shaken) -> None:
    stack = shaken.stack
    lease = shaken.claim("--id", "mine")
    stack.until(lambda status: status["counts"]["ready"] == status["target"])
    mine = sorted(stack.containers())
    with running(RoughStack) as other:
        assert other.install != stack.install
        theirs = other.ok("claim", POOL, "--id", "mine", "--json").json
        assert theirs["container"] != lease["container"]
        assert set(other.containers()).isdisjoint(stack.containers())
        other.ok("down", "--force")
        assert other.containers() == []
        assert other.processes() == []
        assert sorted(stack.containers()) == mine
    assert sorted(stack.containers()) == mine
    assert shaken.exec(lease, "true").code == 0
    shaken.release(lease, "--discard")


def test_down_is_refused_with_live_claims_and_forced_saves_them(shaken: Shaken) -> None:
    stack = shaken.stack
    lease = shaken.claim("--id", "held")
    shaken.exec(lease, "sh", "-c", "echo mine > mine.txt")
    shaken.recorder.record(ev.WorkWritten(time.time(), "held", lease["container"]))
    before = stack.status()
    refused = stack.cli("down", "--json")
    assert refused.code == 2
    assert refused.json["details"]["claims"] == "held"
    assert shaken.exec(lease, "true").code == 0
    with shaken.fault("down"):
        forced = stack.ok("down", "--force", "--json").json
        assert forced["ended_claims"] == ["held"]
        assert stack.containers() == []
        assert stack.processes() == []
        comes_back_the_same(shaken, before)
    saved = stack.ok("saved", "show", "held", "--json").json
    assert (saved["state"], saved["changed"]) == ("saved", 1)
    ended = (time.time(), "held", lease["container"])
    shaken.recorder.record(ev.Saved(*ended, "saved"), ev.Expired(*ended, lease["token"], "down"))


def test_down_by_force_ends_everything_though_no_keeper_answers(shaken: Shaken) -> None:
    stack = shaken.stack
    lease = shaken.claim("--id", "stuck")
    shaken.exec(lease, "sh", "-c", "echo mine > mine.txt")
    shaken.recorder.record(ev.WorkWritten(time.time(), "stuck", lease["container"]))
    before = stack.status()
    worker = stack.service("worker")["pid"]
    with shaken.fault("SIGSTOP worker, down"):
        os.kill(worker, signal.SIGSTOP)
        down = stack.cli("down", "--force", "--json")
        assert down.code == 0, down.err
        assert stack.running() == []
        assert stack.processes() == []
        stack.ok("up", "--json")
        # The claim's container was killed under it: it ends as died, and its work is saved.
        stack.until(lambda status: not any(slot["claim_id"] for slot in status["containers"]))
        comes_back_the_same(shaken, before)
    saved = stack.ok("saved", "show", "stuck", "--json").json
    assert (saved["state"], saved["changed"]) == ("saved", 1)
    ended = (time.time(), "stuck", lease["container"])
    shaken.recorder.record(ev.Saved(*ended, "saved"), ev.Expired(*ended, lease["token"], "died"))
