"""``greenroom delete``: the end of a pool."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit
from greenroom.cli.settling import wait_gone


@click.command("delete")
@click.argument("pool")
@click.option("--force", is_flag=True, help="End its live claims too; their work is saved first.")
@click.option("--within", type=SPAN, default=1200.0, show_default="20m", help="The longest wait.")
@json_option
def command(pool: str, force: bool, within: float, as_json: bool) -> None:  # noqa: FBT001
    """End POOL and all its containers; refused while claims live."""
    api = open_api()
    reply = api.delete("pools", pool, force=force)
    wait_gone(api, pool, within)
    if as_json:
        emit({"pool": pool, "ended_claims": reply["live_claims"]})
        return
    print(f"{pool} is gone")
