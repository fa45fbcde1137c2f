"""Keeping a claim, giving it away, and getting its work back, against everything real."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from tests.e2e.stack import Watched


def test_work_comes_back_into_a_clone(watched: Watched, tmp_path: Path) -> None:
    stack = watched.stack
    lease = watched.claim("--id", "back.1")
    script = "echo new > new.txt; git add -A; git commit -qm 'by default mine'; echo more >> text"
    assert watched.exec(lease, "sh", "-c", script).code == 0
    watched.release(lease)
    shown = stack.ok("saved", "show", "back.1", "--json").json
    assert (shown["commits"], shown["reason"]) == (1, "released")
    assert shown["commit_lines"][0].endswith(": by default mine")
    assert shown["changed_files"] == ["A\tnew.txt", "M\ttext"]
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(stack.repo), str(clone)], check=True)
    applied = stack.ok("saved", "apply", "back.1", str(clone), "--json").json
    assert applied["changed"]
    assert (clone / "new.txt").read_text() == "new\n"
    again = stack.cli("saved", "apply", "back.1", str(clone))
    assert (again.code, "commit or stash" in again.err) == (2, True)
    stack.ok("saved", "export", "back.1", str(tmp_path / "work.tar.gz"))
    stack.ok("saved", "delete", "back.1")
    assert stack.cli("saved", "show", "back.1").code == 4


def test_a_transfer_leaves_running_commands_and_refuses_the_old_token(watched: Watched) -> None:
    lease = watched.claim("--id", "given")
    running = watched.stack.start("exec", "-i", "given", "--", "sh", "-c", "read x; echo $x")
    passed = watched.stack.ok("transfer", "given", "--to", "bob", "--json").json
    assert passed["token"] > lease["token"]
    old = watched.stack.cli("exec", "given", "--token", str(lease["token"]), "--", "true")
    assert old.code == 122
    assert watched.stack.cli("extend", "given", "--ttl", "2h", "--token", "0").code == 4
    out, _ = running.communicate(b"still here\n")
    assert (running.returncode, out) == (0, b"still here\n")
    told = watched.exec(lease, "cat", "/run/greenroom/lease.json")
    assert json.loads(told.out)["holder"] == "bob"
    watched.release(lease)


def test_who_works_in_a_claim_that_ends_soon_is_told_and_can_hold_it(watched: Watched) -> None:
    lease = watched.claim("--ttl", "50s")
    claim = lease["claim_id"]
    done = watched.exec(lease, "sh", "-c", "sleep 0.2; cat /run/greenroom/lease.json")
    assert done.err.startswith("greenroom: lease ends in ")
    assert json.loads(done.out)["ending_soon"] is True
    held = watched.stack.ok("hold", claim, "--for", "2h", "--json").json
    assert held["expires_at"] > time.time() + 7000
    assert watched.exec(lease, "cat", "/run/greenroom/lease.json").err == ""
    assert f"{claim}  " in watched.stack.ok("claims").out
    watched.release(lease)


def test_a_failed_run_can_be_held(watched: Watched) -> None:
    stack = watched.stack
    line = ("run", "demo", "--id", "failed", "--hold", "1h", "--", "sh", "-c", "exit 3")
    done = stack.cli(*line)
    assert done.code == 3
    assert "greenroom shell failed" in done.err
    (claim,) = stack.ok("claims", "--json").json
    assert (claim["claim_id"], claim["held"]) == ("failed", True)
    stack.ok("exec", "failed", "--", "true")
    stack.ok("release", "failed", "--discard")
