"""``greenroom extend``: a longer life for a claim."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit, until


@click.command("extend")
@click.argument("claim")
@click.option("--ttl", type=SPAN, required=True, help="How long from now; it never gets shorter.")
@click.option("--token", type=int, help="Refuse unless this is the live lease's token.")
@json_option
def command(claim: str, ttl: float, token: int | None, as_json: bool) -> None:  # noqa: FBT001
    """Lengthen CLAIM."""
    body = {"ttl_s": ttl, "token": token}
    reply = open_api().post("claims", claim, "extend", body=body)
    if as_json:
        emit({"claim_id": claim, **reply})
        return
    print(f"{claim} lives for {until(reply['expires_at'])} from now")
