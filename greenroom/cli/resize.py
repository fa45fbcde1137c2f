"""``greenroom resize``: how many ready containers a pool keeps."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit
from greenroom.core.errors import UsageError


@click.command("resize")
@click.argument("pool")
@click.argument("ready", metavar="N", type=click.IntRange(0))
@click.option("--max", "most", type=click.IntRange(1), help="Live containers at most.")
@json_option
def command(pool: str, ready: int, most: int | None, as_json: bool) -> None:  # noqa: FBT001
    """Have POOL keep N ready containers."""
    if most is not None and most < ready:
        raise UsageError(f"--max {most} is below {ready}")
    reply = open_api().post("pools", pool, "resize", body={"min": ready, "max": most})
    if as_json:
        emit({"pool": pool, **reply})
        return
    print("\n".join(reply["changed"]) or f"{pool} has that size already")
