"""``greenroom resume``: a pool prepares again."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit


@click.command("resume")
@click.argument("pool")
@json_option
def command(pool: str, as_json: bool) -> None:  # noqa: FBT001
    """End a pause of POOL."""
    api = open_api()
    api.post("pools", pool, "resume")
    if as_json:
        emit(api.get("pools", pool))
        return
    print(f"{pool} goes on")
