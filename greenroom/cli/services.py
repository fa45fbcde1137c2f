"""``greenroom services``: the processes of this install."""

from __future__ import annotations

import os

import click

from greenroom.cli.options import json_option
from greenroom.cli.output import emit, say, table
from greenroom.core.errors import BackendError
from greenroom.services import supervisor_client
from greenroom.services.settings import state_paths


@click.command("services")
@click.option("--restart", metavar="NAME", help="End this one; it is started again at once.")
@json_option
def command(restart: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show the processes of this install, or restart one."""
    paths = state_paths(os.environ)
    if restart:
        supervisor_client.restart(paths, restart)
    found = supervisor_client.status(paths)
    if found is None:
        raise BackendError(f"no services run for {paths.root}; start them with `greenroom up`")
    if as_json:
        emit(found)
        return
    if restart:
        say(f"{restart} is being restarted")
    table(
        [
            (
                name,
                "ready" if state["ready"] else "starting",
                state["pid"] or "-",
                state["restarts"],
                state["log"],
            )
            for name, state in found.items()
        ],
        ("service", "state", "pid", "restarts", "log"),
    )
