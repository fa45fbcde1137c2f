"""``greenroom claims``: who holds what."""

from __future__ import annotations

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
                f"ending: {claim['ending']}" if claim["ending"] else until(claim["expires_at"]),
                since(claim["since"]),
                claim["container"],
            )
            for claim in found
        ],
        ("claim", "pool", "holder", "left", "age", "container"),
    )
    for claim in found:
        if claim.get("hooks") not in ("", "running", None):
            say(f"{claim['claim_id']}: {claim['hooks']} (greenroom logs {claim['claim_id']})")
