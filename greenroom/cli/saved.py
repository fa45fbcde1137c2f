"""``greenroom saved``: the work that ended claims left."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, fields, say, since, table
from greenroom.core.errors import NotFoundError


@click.command("saved")
@click.argument("claim", required=False)
@json_option
def command(claim: str | None, as_json: bool) -> None:  # noqa: FBT001
    """List saved work, or show that of CLAIM."""
    found = open_api().get("saved", claim=claim)
    if claim and not found:
        raise NotFoundError(f"nothing is saved of claim {claim}")
    if as_json:
        emit(found[0] if claim else found)
    elif claim:
        work = found[0]
        fields([(name, work.get(name)) for name in ("claim_id", "pool", "state", "path", "detail")])
        fields([("files", " ".join(work.get("files", ())))])
        if "work.bundle" in work.get("files", ()):
            say(f"git fetch {work['path']}/work.bundle 'refs/*:refs/greenroom/{claim}/*'")
    else:
        if not found:
            say("no saved work")
        table(
            [
                (
                    work["claim_id"],
                    work["pool"],
                    work.get("state", "-"),
                    work.get("commits", 0),
                    work.get("changed", 0),
                    since(work["saved_at"]),
                    work.get("path", ""),
                )
                for work in found
            ],
            ("claim", "pool", "state", "commits", "changed", "age", "path"),
        )
