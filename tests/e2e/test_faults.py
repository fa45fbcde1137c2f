"""Every service killed the hard way, in the middle of an install and in the middle of claims."""

from __future__ import annotations

import subprocess
import threading
import time

import pytest

from tests.chaos import events as ev
from tests.e2e.rough import Shaken
from tests.e2e.stack import POOL

SERVICES = ("worker", "activities", "gate", "api", "temporal", "opener")


@pytest.mark.parametrize("service", SERVICES)
def test_killed_in_the_middle_of_an_install(shaken: Shaken, service: str) -> None:
    with shaken.stack.held_install() as commit:
        shaken.killed(service)
    shaken.full_at(commit)
    lease = shaken.claim_through(f"after-{service}")
    assert lease["commit"] == commit
    assert shaken.exec(lease, ".venv/bin/python", "-c", "pass").code == 0
    shaken.release(lease, "--discard")


@pytest.mark.parametrize("service", SERVICES)
def test_killed_in_the_middle_of_claims(shaken: Shaken, service: str) -> None:
    stack = shaken.stack
    names = [f"mid-{service}-{number}" for number in range(6)]
    leases = {}
    begun = threading.Event()

    def claim_all() -> None:
        for name in names:
            leases[name] = shaken.claim_through(name)
            begun.set()

    claiming = threading.Thread(target=claim_all)
    claiming.start()
    begun.wait()
    shaken.killed(service)
    claiming.join()
    shaken.look()
    # The same id again is the same lease, and there is no other.
    for name, lease in leases.items():
        again = shaken.claim_through(name)
        assert (again["container"], again["token"]) == (lease["container"], lease["token"])
        assert shaken.exec(lease, "true").code == 0
    assert len({lease["container"] for lease in leases.values()}) == len(names)
    listed = {claim["claim_id"]: claim["container"] for claim in stack.ok("claims", "--json").json}
    assert listed == {name: lease["container"] for name, lease in leases.items()}
    for lease in leases.values():
        shaken.release(lease, "--discard")
    status = stack.full()
    shaken.full_at(status["commit"])


@pytest.mark.parametrize("service", ["worker", "activities", "gate", "temporal"])
def test_killed_in_the_middle_of_a_release_loses_no_work(shaken: Shaken, service: str) -> None:
    stack = shaken.stack
    name = f"work-{service}"
    lease = shaken.claim("--id", name)
    assert shaken.exec(lease, "sh", "-c", "head -c 8000000 /dev/urandom > mine.bin").code == 0
    shaken.recorder.record(ev.WorkWritten(time.time(), name, lease["container"]))
    releasing = stack.start("release", name, "--json")
    while stack.phase(lease["container"]) not in {"ended", ""}:
        time.sleep(0.01)
    shaken.killed(service)
    releasing.communicate()
    # Asked again, it is released, or was already.
    shaken.retried("release", name, good=frozenset({0, 4}))
    ended = (time.time(), name, lease["container"])
    saved = stack.ok("saved", "show", name, "--json").json
    assert (saved["state"], saved["changed"]) == ("saved", 1)
    shaken.recorder.record(ev.Released(*ended, lease["token"]), ev.Saved(*ended, saved["state"]))
    shaken.full_at(stack.full()["commit"])


def test_a_claim_right_after_a_ready_container_died_gives_a_living_one(shaken: Shaken) -> None:
    stack = shaken.stack
    ready = [slot["container"] for slot in stack.status()["containers"]]
    with shaken.fault("docker kill of a ready container"):
        subprocess.run(
            ["docker", "kill", *stack.docker_name(ready[0])], check=True, capture_output=True
        )
        first, second = (shaken.claim_through(f"living-{number}") for number in range(2))
    for lease in (first, second):
        assert shaken.exec(lease, "true").code == 0
        assert lease["container"] != ready[0]
        shaken.release(lease, "--discard")
    shaken.full_at(stack.full()["commit"])


def test_a_claimed_container_that_died_ends_as_died_with_its_work_saved(shaken: Shaken) -> None:
    stack = shaken.stack
    before = stack.status()["retired"].get("died", 0)
    lease = shaken.claim("--id", "dies")
    assert shaken.exec(lease, "sh", "-c", "echo mine > mine.txt").code == 0
    shaken.recorder.record(ev.WorkWritten(time.time(), "dies", lease["container"]))
    with shaken.fault("docker kill of a claimed container"):
        names = stack.docker_name(lease["container"])
        subprocess.run(["docker", "kill", *names], check=True, capture_output=True)
        stack.until(
            lambda status: lease["container"] not in {s["container"] for s in status["containers"]}
        )
    token = lease["token"]
    shaken.recorder.record(ev.Expired(time.time(), "dies", lease["container"], token, "died"))
    saved = stack.ok("saved", "show", "dies", "--json").json
    assert saved["state"] == "saved"
    assert saved["changed"] == 1
    shaken.recorder.record(ev.Saved(time.time(), "dies", lease["container"], saved["state"]))
    assert stack.status()["retired"]["died"] == before + 1
    assert stack.cli("exec", "dies", "--", "true").code == 122
    assert stack.cli("release", "dies").code == 4
    shaken.full_at(stack.full()["commit"])


def test_claims_of_one_id_at_once_get_one_container(shaken: Shaken) -> None:
    claiming = [shaken.stack.start("claim", POOL, "--id", "same", "--json") for _ in range(4)]
    for process in claiming:
        process.communicate()
        assert process.returncode == 0
    lease = shaken.claim_through("same")
    live = shaken.stack.ok("claims", "--json").json
    assert [claim["container"] for claim in live] == [lease["container"]]
    shaken.release(lease, "--discard")
