"""``greenroom gate``: the gate of this host, until SIGTERM."""

from __future__ import annotations

import click

from greenroom.gate import server


@click.command("gate")
def command() -> None:
    """Serve as the gate of this host."""
    server.main()
