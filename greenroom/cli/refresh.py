"""``greenroom refresh``: the newest commit, now."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit
from greenroom.cli.settling import settle


@click.command("refresh")
@click.argument("pool")
@click.option("--wait", is_flag=True, help="Wait until every ready container has it.")
@click.option("--within", type=SPAN, default=3600.0, show_default="1h", help="The longest wait.")
@json_option
def command(pool: str, wait: bool, within: float, as_json: bool) -> None:  # noqa: FBT001
    """Bring POOL to the newest commit; also starts a pool again that stopped trying."""
    api = open_api()
    api.post("pools", pool, "refresh")
    status = settle(api, [pool], within)[0] if wait else api.get("pools", pool)
    if as_json:
        emit(status)
        return
    print(f"{pool}: {status['refresh']['state']}, serving {status['commit'][:12] or 'nothing'}")
