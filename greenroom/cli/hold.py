"""``greenroom hold``: keeps a claim for a look at it, longer than claims may live otherwise."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit, until


@click.command("hold")
@click.argument("claim")
@click.option(
    "--for", "ttl", type=SPAN, default=4 * 3600.0, show_default="4h",
    help="How long from now, up to the pool's lease.max_hold.",
)  # fmt: skip
@click.option("--token", type=int, help="Refuse unless this is the live lease's token.")
@json_option
def command(claim: str, ttl: float, token: int | None, as_json: bool) -> None:  # noqa: FBT001
    """Keep CLAIM for debugging; no heartbeat is demanded any more."""
    body = {"ttl_s": ttl, "token": token, "hold": True}
    reply = open_api().post("claims", claim, "extend", body=body)
    if as_json:
        emit({"claim_id": claim, **reply})
        return
    print(f"{claim} is held for {until(reply['expires_at'])}; `greenroom release {claim}` ends it")
