"""``greenroom status``: how the pools are."""

from __future__ import annotations

import time
from typing import Any

import click

from greenroom.cli.claims import queue
from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, fields, percent, say, since, span, table, until
from greenroom.cli.settling import describe, failure_of
from greenroom.core.errors import UsageError

_EVERY_S = 1.0


@click.command("status")
@click.argument("pool", required=False)
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@json_option
def command(pool: str | None, watch: bool, as_json: bool) -> None:  # noqa: FBT001
    """Show POOL with its containers, or all pools."""
    if watch and as_json:
        raise UsageError("--watch and --json do not go together")
    api = open_api()
    while True:
        found = api.get("pools", pool) if pool else api.get("pools")
        if as_json:
            emit(found)
        else:
            if watch:
                print("\033[H\033[2J", end="")
            _show(found if pool is None else [found], whole=pool is not None)
        if not watch:
            return
        time.sleep(_EVERY_S)


def _show(pools: list[dict[str, Any]], *, whole: bool) -> None:
    if not pools:
        say("no pools; make one with `greenroom apply FILE`")
    if whole:
        for pool in pools:
            _one(pool)
        return
    table(
        [
            (
                pool["pool"],
                f"{pool['counts']['ready']}/{pool['target']}",
                pool["counts"]["claimed"],
                pool["queue"],
                percent(pool["hit_rate"]),
                pool["commit"][:12] or "-",
                _state(pool),
            )
            for pool in pools
        ],
        ("pool", "ready", "claimed", "queue", "warm", "commit", "state"),
    )
    for pool in pools:
        failure = failure_of(pool)
        if failure:
            print(f"{pool['pool']}: {failure['step']} failed: {failure['reason']}")


def _state(pool: dict[str, Any]) -> str:
    if pool["suspended"]:
        return f"suspended ({pool['suspended']})"
    if pool["paused"]:
        return "paused"
    return str(pool["refresh"]["state"])


def _one(pool: dict[str, Any]) -> None:
    counts, snapshot, failure = pool["counts"], pool["snapshot"], failure_of(pool)
    built = f"{since(snapshot['built_at'])} ago in {span(snapshot['seconds'])}" if snapshot else ""
    fields(
        [
            ("pool", pool["pool"]),
            ("repository", f"{pool['repo']} {pool['ref']}"),
            ("state", f"{_state(pool)}: {describe(pool)}"),
            ("claimed", f"{counts['claimed']} of at most {pool['max']}, queue {pool['queue']}"),
            ("warm", f"{percent(pool['hit_rate'])} of {pool['claims_warm'] + pool['claims_cold']}"),
            ("commit", pool["commit"]),
            ("snapshot", f"{pool['fingerprint'][:12]} built {built}" if snapshot else ""),
            ("retired", ", ".join(f"{n} {why}" for why, n in pool["retired"].items())),
        ]
    )
    if failure:
        retry = f", next try in {until(pool['retry_at'])}" if pool["retry_at"] else ", stopped"
        print(f"FAILED       {failure['step']}: {failure['reason']}")
        print(
            f"             {pool['failure_streak']} in a row{retry}; log: {failure['log'] or '-'}"
        )
        for line in failure["tail"].splitlines()[-15:]:
            print(f"  | {line}")
    table(
        [
            (
                slot["container"],
                slot["state"] if not slot["ending"] else f"ending: {slot['ending']}",
                since(slot["since"]),
                slot["commit"][:12],
                slot["claim_id"] or "-",
                until(slot["expires_at"]) + (", held" if slot["held"] else "")
                if slot["claim_id"]
                else "-",
            )
            for slot in pool["containers"]
        ],
        ("container", "state", "for", "commit", "claim", "left"),
    )
    queue([{"state": "queued", "pool": pool["pool"], **claim} for claim in pool["waiting"]])
