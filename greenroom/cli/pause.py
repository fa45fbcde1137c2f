"""``greenroom pause``: nothing new is prepared."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit


@click.command("pause")
@click.argument("pool")
@json_option
def command(pool: str, as_json: bool) -> None:  # noqa: FBT001
    """Have POOL prepare nothing new; ready containers can still be claimed."""
    api = open_api()
    api.post("pools", pool, "pause")
    if as_json:
        emit(api.get("pools", pool))
        return
    print(f"{pool} paused")
