"""``greenroom api``: the API of this host, until SIGTERM."""

from __future__ import annotations

import click

from greenroom.api import server


@click.command("api")
def command() -> None:
    """Serve as the API of this host."""
    server.main()
