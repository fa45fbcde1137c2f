"""``greenroom logs``: what preparing a snapshot or a container printed."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, say


@click.command("logs")
@click.argument("what", metavar="CLAIM|CONTAINER|POOL")
@click.option("--tail", type=click.IntRange(0), default=200, help="Last lines of each; 0: all.")
@json_option
def command(what: str, tail: int, as_json: bool) -> None:  # noqa: FBT001
    """Show the logs of a claim, a container, or a pool's newest snapshot."""
    found = open_api().get("logs", what, tail=tail)
    if as_json:
        emit(found)
        return
    for part in found["parts"]:
        say(f"== {part['name']} {part['path']}".rstrip())
        print(part["text"], end="" if part["text"].endswith("\n") else "\n")
