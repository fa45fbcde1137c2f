"""``greenroom heartbeat``: says again and again that a claim's holder is there."""

from __future__ import annotations

import time

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit, say, until
from greenroom.core.errors import BackendError

_EVERY_S = 10.0


@click.command("heartbeat")
@click.argument("claim")
@click.option(
    "--every", type=SPAN, help="How often; omitted: half of what the claim asks for, or 10s."
)
@click.option("--once", is_flag=True, help="Only now.")
@click.option("--token", type=int, help="Refuse unless this is the live lease's token.")
@json_option
def command(
    claim: str,
    every: float | None,
    once: bool,  # noqa: FBT001
    token: int | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Keep CLAIM from being given up, until this is killed or the claim ends."""
    api = open_api()
    first = api.post("claims", claim, "heartbeat", body={"token": token})
    if once:
        _tell(first, as_json=as_json)
        return
    pause = every if every is not None else first["heartbeat_s"] / 2 or _EVERY_S
    while True:
        time.sleep(pause)
        try:
            api.post("claims", claim, "heartbeat", body={"token": token})
        except BackendError as error:
            say(f"greenroom: {error.message}")  # the next one may be heard


def _tell(heard: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        emit(heard)
        return
    print(f"{heard['claim_id']} is heard of; it lives for {until(float(str(heard['expires_at'])))}")
