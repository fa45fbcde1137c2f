"""``greenroom claims``: who holds what, and who waits."""

from __future__ import annotations

import time
from typing import Any

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, fields, say, since, span, table, until


@click.command("claims")
@click.argument("claim", required=False)
@json_option
def command(claim: str | None, as_json: bool) -> None:  # noqa: FBT001
    """List the live claims and those that wait, or show one: CLAIM, even when it has ended."""
    api = open_api()
    found = api.get("claims", claim) if claim else api.get("claims")
    if as_json:
        emit(found)
    elif claim:
        fields([(name, _shown(name, value)) for name, value in found.items() if name != "token"])
    else:
        _list(found)


def _list(found: list[dict[str, Any]]) -> None:
    live = [claim for claim in found if claim["state"] != "queued"]
    if not live:
        say("no live claims")
    table(
        [
            (
                claim["claim_id"],
                claim["pool"],
                claim["holder"] or "-",
                _left(claim),
                since(claim["since"]),
                claim["container"],
            )
            for claim in live
        ],
        ("claim", "pool", "holder", "left", "age", "container"),
    )
    for claim in live:
        if claim["hooks"] not in ("", "running"):
            say(f"{claim['claim_id']}: {claim['hooks']} (greenroom logs {claim['claim_id']})")
    queue(found)


def queue(found: list[dict[str, Any]]) -> None:
    """The queued claims among these, as a table."""
    table(
        [
            (
                claim["claim_id"],
                claim["pool"],
                claim["holder"] or "-",
                claim["position"],
                claim["count"],
                since(claim["since"]),
                span(claim["eta_s"]),
                claim["miss_reason"],
            )
            for claim in found
            if claim["state"] == "queued"
        ],
        ("queued", "pool", "holder", "position", "count", "age", "eta", "why"),
    )


def _shown(name: str, value: object) -> object:
    if isinstance(value, float) and name.endswith("_at"):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value)) if value else ""
    if isinstance(value, float) and name == "since":
        return f"{since(value)} ago"
    return span(value) if isinstance(value, float) and name.endswith("_s") else value


def _left(claim: dict[str, Any]) -> str:
    if claim["ending"]:
        return f"ending: {claim['ending']}"
    return f"{until(claim['expires_at'])}{', held' if claim['held'] else ''}"
