"""``greenroom token``: who may use the API over TCP, and for what."""

from __future__ import annotations

import os
import time

import click

from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit, say, since, table, until
from greenroom.core.access import Scope
from greenroom.services import tokens
from greenroom.services.settings import load_settings
from greenroom.services.tokens import DEFAULT_RATE, TokenRecord, Wanted


@click.group("token")
def command() -> None:
    """Make, list and revoke tokens of the API; changes count from the next request on."""


@command.command("create")
@click.argument("name")
@click.option("--pool", "pools", multiple=True, required=True, help="A pool it is for; '*': all.")
@click.option(
    "--scope",
    type=click.Choice([str(scope) for scope in Scope]),
    required=True,
    help="read: look; claim: and claim, exec, copy, release; admin: and change pools.",
)
@click.option("--expires", type=SPAN, default=0.0, help="How long it is good; omitted: for ever.")
@click.option(
    "--rate", type=float, default=DEFAULT_RATE, show_default=True, help="Requests a second."
)
@json_option
def create(  # noqa: PLR0913, PLR0917 - click's
    name: str,
    pools: tuple[str, ...],
    scope: str,
    expires: float,
    rate: float,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Make a token NAME; it is shown this once."""
    now = time.time()
    wanted = Wanted(name, pools, Scope(scope), now + expires if expires else 0.0, rate)
    record, text = tokens.create(load_settings(os.environ).paths, wanted, now)
    if as_json:
        emit({**_shown(record), "token": text})
        return
    say("shown this once; use it as GREENROOM_TOKEN:")
    print(text)


@command.command("list")
@json_option
def listing(as_json: bool) -> None:  # noqa: FBT001
    """List the tokens; not what they are."""
    found = tokens.listing(load_settings(os.environ).paths)
    if as_json:
        emit([_shown(record) for record in found])
        return
    if not found:
        say("no tokens; make one with `greenroom token create`")
    table(
        [
            (
                record.name,
                record.scope,
                ",".join(record.pools),
                since(record.created_at),
                _left(record),
                f"{record.rate:g}/s",
            )
            for record in found
        ],
        ("name", "scope", "pools", "age", "left", "rate"),
    )


@command.command("revoke")
@click.argument("name")
@json_option
def revoke(name: str, as_json: bool) -> None:  # noqa: FBT001
    """End the token NAME, and what still runs under it."""
    tokens.revoke(load_settings(os.environ).paths, name)
    if as_json:
        emit({"name": name, "revoked": True})
    else:
        print(f"{name} is revoked")


def _shown(record: TokenRecord) -> dict[str, object]:
    return {
        "name": record.name,
        "scope": str(record.scope),
        "pools": list(record.pools),
        "created_at": record.created_at,
        "expires_at": record.expires_at or None,
        "rate": record.rate,
    }


def _left(record: TokenRecord) -> str:
    if not record.expires_at:
        return "for ever"
    return "expired" if record.expires_at <= time.time() else until(record.expires_at)
