"""``greenroom opener``: the opener of this host, until SIGTERM."""

from __future__ import annotations

import click

from greenroom.gate import opener


@click.command("opener")
def command() -> None:
    """Serve as the opener of this host."""
    opener.main()
