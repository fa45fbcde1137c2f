"""``greenroom task``: what a detached command does, or came to."""

from __future__ import annotations

import sys
from typing import Any

import click

from greenroom.cli.http_client import PATIENCE_S, Ask, open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, fields, span
from greenroom.core.errors import UsageError, from_code
from greenroom.core.wire import url

_ROUND_S = 30.0


@click.command("task")
@click.argument("which", metavar="WORKFLOW|CLAIM")
@click.option("--wait", is_flag=True, help="Wait for its end.")
@click.option("--cancel", is_flag=True, help="Kill it; its work is saved and its claim ends.")
@json_option
def command(which: str, wait: bool, cancel: bool, as_json: bool) -> None:  # noqa: FBT001
    """Show a command that `run --detach`, or anything else, started as a Task."""
    api = open_api()
    pool, claim = _named(which)
    if cancel:
        api.delete("tasks", claim, pool=pool)
    path = url("tasks", claim, pool=pool, wait_s=_ROUND_S if wait else 0)
    while True:
        found: dict[str, Any] = api.ask(Ask("GET", path, timeout_s=_ROUND_S + PATIENCE_S))
        if not wait or found["state"] != "running":
            break
    if as_json:
        emit(found)
        return
    _show(found)
    if found["error"]:
        error = found["error"]
        raise from_code(error["error"], error["message"], error["details"])


def _named(which: str) -> tuple[str | None, str]:
    """Pool and claim; a workflow's id names both."""
    if "/" not in which:
        return None, which
    *prefix, pool, claim = which.split("/")
    if prefix != ["greenroom", "task"]:
        raise UsageError(f"{which!r} is not greenroom/task/POOL/CLAIM")
    return pool, claim


def _show(found: dict[str, Any]) -> None:
    result = found["result"] or {}
    saved = result.get("saved") or {}
    fields(
        [
            ("workflow", found["workflow"]),
            ("state", f"{found['state']} {found['phase']}".strip()),
            ("container", found["container"]),
            ("outcome", result.get("outcome")),
            ("exit code", result.get("exit_code")),
            ("detail", result.get("detail")),
            ("took", span(result["seconds"]) if result else ""),
            ("output", result.get("output")),
            ("saved", saved.get("path") or saved.get("state")),
        ]
    )
    sys.stdout.flush()
    print(found["stdout_tail"], end="")
    sys.stdout.flush()
    print(found["stderr_tail"], end="", file=sys.stderr)
