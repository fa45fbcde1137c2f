"""``greenroom transfer``: a claim goes to another holder."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit


@click.command("transfer")
@click.argument("claim")
@click.option("--to", "holder", required=True, metavar="HOLDER", help="Who holds it from now on.")
@click.option("--token", type=int, help="Refuse unless this is the live lease's token.")
@json_option
def command(claim: str, holder: str, token: int | None, as_json: bool) -> None:  # noqa: FBT001
    """Give CLAIM another holder and a new token; the old token is refused from now on."""
    api = open_api()
    # With the token that it is to replace, the request can be sent twice and happen once.
    known = api.get("claims", claim)["token"] if token is None else token
    body = {"holder": holder, "token": known}
    reply = api.post("claims", claim, "transfer", body=body)
    if as_json:
        emit(reply)
        return
    print(f"{claim} is {holder}'s, token {reply['token']}")
