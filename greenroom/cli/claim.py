"""``greenroom claim``: one prepared container, armed and ready for commands."""

from __future__ import annotations

from typing import Any

import click

from greenroom.cli.claiming import take
from greenroom.cli.http_client import open_api
from greenroom.cli.options import claim_body, claim_options, json_option
from greenroom.cli.output import emit, span, until


@click.command("claim")
@click.argument("pool")
@claim_options
@json_option
def command(pool: str, as_json: bool, **wanted: Any) -> None:  # noqa: ANN401, FBT001 - click's
    """Get a prepared container of POOL."""
    granted = take(open_api(), pool, claim_body(wanted), named=bool(wanted["claim_id"]))
    if as_json:
        emit(granted)
        return
    warm = "warm" if granted["warm"] else f"after {span(granted['waited_s'])}"
    claim, took = granted["claim_id"], granted["stages_ms"]["total"]
    print(f"{claim}  {warm}, {took:.0f} ms, commit {granted['commit'][:12]}")
    print(f"  container {granted['container']}, for {until(granted['expires_at'])}")
    print(f"  greenroom exec {claim} -- CMD     greenroom release {claim}")
