"""``greenroom down``: nothing is left running; state and saved work stay."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from greenroom.cli.http_client import PATIENCE_S, Api, Ask
from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit, progress, say, until
from greenroom.cli.settling import wait_gone
from greenroom.core.errors import BackendError, LiveClaimsError, UsageError
from greenroom.core.wire import url
from greenroom.services import supervisor_client
from greenroom.services.down import bring_down
from greenroom.services.settings import load_settings

_EVERY_S = 0.5
_FORCED_S = 10.0
"""How long a forced ``down`` waits to hear of the live claims before it stops all the same."""


@click.command("down")
@click.option("--wait", is_flag=True, help="Wait until the live claims have ended.")
@click.option("--force", is_flag=True, help="End the live claims; their work is saved first.")
@click.option("--within", type=SPAN, default=3600.0, show_default="1h", help="The longest wait.")
@json_option
def command(wait: bool, force: bool, within: float, as_json: bool) -> None:  # noqa: FBT001
    """Stop everything; refused while claims live."""
    if wait and force:
        raise UsageError("--wait and --force do not go together")
    settings = load_settings(os.environ)
    ended: list[str] = []
    if supervisor_client.status(settings.paths) is not None:
        try:
            ended = _stop_pools(Api(settings.paths), within, wait=wait, force=force)
        except BackendError as error:
            if not force:
                raise
            # Down must always be possible: workflows go on where they are after the next up.
            progress("pools", f"not all could be told ({error.message}); stopping all the same")
    bring_down(settings, progress)
    if as_json:
        emit({"state": str(settings.paths.root), "ended_claims": ended})
        return
    print(f"down; state stays in {settings.paths.root}")


def _stop_pools(api: Api, within_s: float, *, wait: bool, force: bool) -> list[str]:
    """Suspend every pool and wait until its containers are gone; the claims that this ended."""
    _check_claims(api, within_s, wait=wait, force=force)
    pools = [pool["pool"] for pool in api.get("pools")]
    ended: list[str] = []
    for pool in pools:
        body = {"reason": "down", "force": force}
        ended += api.post("pools", pool, "suspend", body=body)["live_claims"]
    for pool in pools:
        wait_gone(api, pool, within_s)
    return ended


def _check_claims(api: Api, within_s: float, *, wait: bool, force: bool) -> None:
    deadline = time.monotonic() + within_s
    said = 0
    question = Ask("GET", url("claims"), timeout_s=_FORCED_S if force else PATIENCE_S)
    while live := [claim for claim in api.ask(question) if not claim["ending"]]:
        if force:
            return
        if not wait:
            _list(live)
            raise LiveClaimsError(
                f"{len(live)} live claims; release them, or use --wait or --force",
                claims=",".join(claim["claim_id"] for claim in live),
            )
        if len(live) != said:
            said = len(live)
            progress("claims", f"waiting for {said} live claims")
        if time.monotonic() > deadline:
            raise BackendError(f"{said} claims still live after {within_s:g} s")
        time.sleep(_EVERY_S)


def _list(live: list[dict[str, Any]]) -> None:
    for claim in live:
        holder = claim["holder"] or "-"
        say(f"  {claim['claim_id']}  {claim['pool']}  {holder}  {until(claim['expires_at'])} left")
