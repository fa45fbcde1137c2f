"""``greenroom claim``: prepared containers, armed and ready for commands."""

from __future__ import annotations

from typing import Any

import click

from greenroom.cli.claiming import take
from greenroom.cli.http_client import open_api
from greenroom.cli.options import claim_body, claim_options, json_option
from greenroom.cli.output import emit, span, until
from greenroom.core.errors import UsageError


@click.command("claim")
@click.argument("pool")
@click.option(
    "--count", type=click.IntRange(min=1), default=1, show_default=True,
    help="How many, all at once, as the claims ID.1, ID.2 and so on.",
)  # fmt: skip
@click.option("--partial", is_flag=True, help="Of --count, what is ready now, at least one.")
@claim_options
@json_option
def command(pool: str, as_json: bool, **wanted: Any) -> None:  # noqa: ANN401, FBT001 - click's
    """Get a prepared container of POOL, or a group of them."""
    if wanted["partial"] and wanted["count"] == 1:
        raise UsageError("--partial goes with a --count above 1")
    granted = take(open_api(), pool, claim_body(wanted), named=bool(wanted["claim_id"]))
    if as_json:
        emit(granted)
        return
    for claim in granted.get("claims", [granted]):
        _show(claim)


def _show(granted: dict[str, Any]) -> None:
    warm = "warm" if granted["warm"] else f"after {span(granted['waited_s'])}"
    claim, took = granted["claim_id"], granted["stages_ms"]["total"]
    print(f"{claim}  {warm}, {took:.0f} ms, commit {granted['commit'][:12]}")
    print(f"  container {granted['container']}, for {until(granted['expires_at'])}")
    print(f"  greenroom exec {claim} -- CMD     greenroom release {claim}")
