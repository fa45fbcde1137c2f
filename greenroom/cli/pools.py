"""``greenroom pools``: what pools there are."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, say, table


@click.command("pools")
@json_option
def command(as_json: bool) -> None:  # noqa: FBT001
    """List the pools."""
    found = open_api().get("pools")
    if as_json:
        emit([{name: pool[name] for name in _SHOWN} for pool in found])
        return
    if not found:
        say("no pools; make one with `greenroom apply FILE`")
    table(
        [
            (pool["pool"], f"{pool['counts']['ready']}/{pool['target']}", pool["ref"], pool["repo"])
            for pool in found
        ],
        ("pool", "ready", "ref", "repository"),
    )


_SHOWN = ("pool", "repo", "ref", "commit", "target", "max", "paused", "suspended", "counts")
