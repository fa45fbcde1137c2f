"""The command line as a process, against everything real."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path

from tests.e2e.stack import POOL, PROGRAM, Watched


def test_claim_exec_release_with_saved_work(watched: Watched, tmp_path: Path) -> None:
    lease = watched.claim("--id", "work")
    assert lease["armed"]
    assert lease["warm"]
    done = watched.exec(
        lease, "sh", "-c", "python3 main.py && cat built.txt && git status --porcelain"
    )
    assert done.out == "hello from the repository\nbuilt\n"
    watched.exec(lease, "sh", "-c", "echo new > new.txt; git add -A")
    released = watched.release(lease, "--save", str(tmp_path / "kept"))
    assert released["saved"]["state"] == "saved"
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == sorted(
        released["saved"]["files"]
    )
    shown = watched.stack.ok("saved", "show", "work", "--json").json
    assert shown["changed"] == 1
    ended = watched.stack.cli("exec", "work", "--", "true")
    assert ended.code == 122
    assert ended.err.splitlines()[-1].startswith("greenroom: ")
    assert watched.stack.cli("release", "work").code == 4


def test_exec_passes_streams_and_code(watched: Watched) -> None:
    lease = watched.claim()
    done = watched.exec(lease, "sh", "-c", "cat; echo err >&2; exit 7", stdin=b"a\0b")
    assert (done.code, done.stdout, done.stderr) == (7, b"a\0b", b"err\n")
    big = os.urandom(5_000_000)
    assert watched.exec(lease, "cat", stdin=big).stdout == big
    kept = watched.stack.ok("exec", "--json", lease["claim_id"], "--", "pwd").json
    assert kept == {
        "claim_id": lease["claim_id"], "exit_code": 0, "stdout": "/workspace\n", "stderr": "",
    }  # fmt: skip
    assert watched.exec(lease, "no-such-command").code == 127
    assert watched.stack.cli("exec", lease["claim_id"], "--token", "0", "--", "true").code == 122


def test_personal_parts_are_there_for_commands(watched: Watched, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cr3t")
    lease = watched.claim("--env", "GREETING=it's me", "--secret", f"TOKEN=@{secret}")
    done = watched.exec(lease, "sh", "-c", 'echo "$GREETING"; cat /run/greenroom/secrets/TOKEN')
    assert done.out == "it's me\ns3cr3t"
    inspected = subprocess.run(
        ["docker", "inspect", *watched.stack.containers("slot")], capture_output=True, check=True
    )
    assert b"s3cr3t" not in inspected.stdout


def test_a_terminal_has_size_and_passes_the_shells_code(watched: Watched) -> None:
    lease = watched.claim()
    leader, follower = pty.openpty()
    subprocess.run(["stty", "rows", "40", "cols", "123"], stdin=follower, check=True)
    # The engine sets the size once the command runs; a program hears of it by SIGWINCH.
    sized = 'until [ "$(stty size)" = "40 123" ]; do sleep 0.1; done'
    shell = ("sh", "-c", f"read x; {sized}; stty size; exit 5")
    process = subprocess.Popen(
        [PROGRAM, "exec", "-i", "-t", lease["claim_id"], "--", *shell],
        stdin=follower, stdout=follower, stderr=follower, env=watched.stack.environ,
    )  # fmt: skip
    os.close(follower)
    os.write(leader, b"go\n")
    seen = b""
    while b"40 123" not in seen:
        seen += os.read(leader, 1024)
    assert process.wait() == 5
    os.close(leader)


def test_a_command_ends_with_its_caller(watched: Watched) -> None:
    lease = watched.claim()
    for end, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        running = watched.stack.start(
            "exec", "-i", lease["claim_id"], "--", "sh", "-c", "echo on; exec sleep 4242"
        )
        assert running.stdout is not None
        assert running.stdout.readline() == b"on\n"
        running.send_signal(end)
        running.communicate()
        assert running.returncode == code
        gone = ("sh", "-c", "while ps ax | grep -q '[s]leep 4242'; do sleep 0.1; done")
        assert watched.exec(lease, *gone).code == 0


def test_a_claim_that_ends_under_a_command_says_so(watched: Watched) -> None:
    lease = watched.claim()
    running = watched.stack.start(
        "exec", lease["claim_id"], "--", "sh", "-c", "echo on; exec sleep 4242"
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"on\n"
    watched.release(lease)
    _, err = running.communicate()
    assert running.returncode == 122
    assert err.decode().startswith("greenroom: claim")


def test_run_releases_whatever_happens(watched: Watched) -> None:
    stack = watched.stack
    assert stack.cli("run", POOL, "--", "sh", "-c", "exit 9").code == 9
    running = stack.start("run", POOL, "--id", "r1", "--", "sh", "-c", "echo on; exec sleep 4242")
    assert running.stdout is not None
    assert running.stdout.readline() == b"on\n"
    running.send_signal(signal.SIGINT)
    running.communicate()
    assert running.returncode == 130
    live = [claim for claim in stack.ok("claims", "--json").json if not claim["ending"]]
    assert live == []
    kept = stack.ok("run", POOL, "--json", "--", "git", "log", "--format=%s").json
    assert kept["stdout"] == "first\n"


def test_refresh_brings_the_newest_commit(watched: Watched) -> None:
    stack = watched.stack
    old = watched.claim()
    commit = stack.commit("second")
    assert stack.ok("refresh", POOL, "--wait", "--json").json["commit"] == commit
    fresh = watched.claim()
    assert fresh["commit"] == commit
    assert watched.exec(fresh, "git", "rev-parse", "HEAD").out.strip() == commit
    assert watched.exec(old, "git", "rev-parse", "HEAD").out.strip() == old["commit"] != commit


def test_a_failing_pool_says_why_and_is_left_clean(watched: Watched) -> None:
    stack = watched.stack
    file = stack.folder / "broken.yaml"
    file.write_text(
        stack.pool_file.read_text()
        .replace("name: demo", "name: broken")
        .replace('install: ["true"]', 'install: ["echo the-reason >&2; exit 3"]')
    )
    failed = stack.cli("apply", str(file), "--wait", "--json")
    assert failed.code == 1
    assert failed.json["error"] == "preparation"
    assert "the-reason" in failed.err
    assert "the-reason" in stack.ok("status", "broken").out
    assert "the-reason" in stack.ok("logs", "broken").out
    stack.ok("delete", "broken")
    assert stack.cli("status", "broken").code == 4
    assert stack.containers("builder") == []


def test_an_api_that_dies_in_the_middle_of_claims_loses_none(watched: Watched) -> None:
    stack = watched.stack
    stack.ok("resize", POOL, "4")
    stack.until(lambda status: status["counts"]["ready"] == 4)
    api = stack.service("api")["pid"]
    claiming = [stack.start("claim", POOL, "--id", f"k{n}", "--json") for n in range(4)]
    os.kill(api, signal.SIGKILL)
    for process in claiming:
        _, err = process.communicate()
        assert process.returncode == 0, err.decode()
    leases = [watched.claim("--id", f"k{n}") for n in range(4)]
    assert len({lease["container"] for lease in leases}) == 4
    for lease in leases:
        watched.release(lease, "--discard")
    stack.ok("resize", POOL, "2")


def test_doctor_finds_nothing(watched: Watched) -> None:
    found = watched.stack.cli("doctor", "--json")
    assert [check["check"] for check in found.json if not check["ok"]] == []
    assert found.code == 0


def test_down_is_refused_while_claims_live_and_up_brings_the_same_back(watched: Watched) -> None:
    stack = watched.stack
    lease = watched.claim()
    refused = stack.cli("down", "--json")
    assert refused.code == 2
    assert refused.json["details"]["claims"] == lease["claim_id"]
    watched.exec(lease, "sh", "-c", "echo kept > kept.txt")
    before = stack.status()
    forced = stack.ok("down", "--force", "--json").json
    assert forced["ended_claims"] == [lease["claim_id"]]
    assert stack.containers() == []
    assert stack.processes() == []
    assert stack.cli("claim", POOL).code == 5
    stack.ok("up", "--json")
    after = stack.full()
    assert after["claims_warm"] == before["claims_warm"]
    assert after["commit"] == before["commit"]
    assert stack.ok("saved", "show", lease["claim_id"], "--json").json["state"] == "saved"
