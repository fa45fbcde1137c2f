"""``greenroom claims``: who holds what."""

from __future__ import annotations

from typing import Any

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, say, since, table, until


@click.command("claims")
@json_option
def command(as_json: bool) -> None:  # noqa: FBT001
    """List the live claims."""
    found = open_api().get("claims")
    if as_json:
        emit(found)
        return
    if not found:
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
            for claim in found
        ],
        ("claim", "pool", "holder", "left", "age", "container"),
    )


def _left(claim: dict[str, Any]) -> str:
    if claim["ending"]:
        return f"ending: {claim['ending']}"
    return f"{until(claim['expires_at'])}{', held' if claim['held'] else ''}"
