"""A Task whose surroundings are killed one after the other while its command runs."""

from __future__ import annotations

from tests.e2e.rough import Shaken
from tests.e2e.stack import POOL

SCRIPT = "echo start >> starts; echo on; until [ -e go ]; do sleep 0.1; done; echo over; exit 6"


def test_a_command_is_followed_through_every_death_and_started_once(shaken: Shaken) -> None:
    stack = shaken.stack
    stack.ok("run", "--detach", POOL, "--id", "long", "--", "sh", "-c", SCRIPT)
    stack.until(lambda _: stack.ok("task", "long", "--json").json["stdout_tail"] == "on\n")
    for service in ("activities", "worker", "temporal", "api"):
        shaken.killed(service)
    before = stack.service("activities")["pid"]
    stack.ok("services", "--restart", "activities")  # the graceful way leaves it running too
    stack.until_back("activities", before)
    assert shaken.retried("task", "long")["phase"] == "running"
    assert stack.ok("exec", "long", "--", "sh", "-c", "cat starts; touch go").out == "start\n"
    ended = shaken.retried("task", "long", "--wait")
    result = ended["result"]
    assert (result["outcome"], result["exit_code"]) == ("exited", 6)
    assert result["stdout_tail"] == "on\nover\n"
    assert result["saved"]["state"] == "saved"
    assert result["saved"]["changed"] == 2


def test_a_cancelled_task_is_over_with_its_work_saved(shaken: Shaken) -> None:
    stack = shaken.stack
    script = "echo half > done; echo on; exec sleep 4242"
    stack.ok("run", "--detach", POOL, "--id", "unwanted", "--", "sh", "-c", script)
    stack.until(lambda _: stack.ok("task", "unwanted", "--json").json["stdout_tail"] == "on\n")
    ended = stack.ok("task", "unwanted", "--cancel", "--wait", "--json").json
    assert ended["state"] == "canceled"
    assert stack.ok("saved", "show", "unwanted", "--json").json["changed"] == 1
    assert stack.ok("claims", "--json").json == []
