"""``greenroom run --detach``: the command as a Task that goes on without us."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from greenroom.cli.http_client import Ask, open_api
from greenroom.cli.options import claim_body
from greenroom.cli.output import emit, say
from greenroom.core.errors import UsageError
from greenroom.core.wire import url

_WAIT_S = 3600.0


@dataclass(frozen=True)
class Detached:
    """What to run, and how. ``timeout_s`` 0: as long as the claim."""

    command: tuple[str, ...]
    workdir: str
    timeout_s: float
    attempts: int
    save: bool


def start_detached(pool: str, task: Detached, wanted: dict[str, Any], *, as_json: bool) -> None:
    """Start it and print its workflow's id. Raises ``greenroom.core.errors``."""
    claim = claim_body(wanted)
    if claim.pop("files"):
        raise UsageError("--file does not go with --detach: use --secret, --sealed or the repo")
    if claim.pop("heartbeat_s"):
        raise UsageError("--heartbeat does not go with --detach: a Task needs none")
    for of_groups in ("count", "partial"):
        del claim[of_groups]
    identity = {"NAME": claim.pop("git_name"), "EMAIL": claim.pop("git_email")}
    for role in ("AUTHOR", "COMMITTER"):
        claim["env"] |= {f"GIT_{role}_{what}": text for what, text in identity.items() if text}
    body = {
        **claim,
        "command": task.command,
        "workdir": task.workdir,
        "timeout_s": task.timeout_s,
        "attempts": task.attempts,
        "save": task.save,
        "wait_s": claim["wait_s"] or _WAIT_S,
    }
    started = open_api().ask(Ask("POST", url("pools", pool, "tasks"), body))
    if as_json:
        emit(started)
        return
    print(started["workflow"])
    say(f"greenroom task {started['claim_id']} --wait     greenroom logs {started['claim_id']}")
