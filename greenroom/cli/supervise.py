"""``greenroom supervise``: all services, in the foreground, until SIGTERM."""

from __future__ import annotations

import click

from greenroom.services import supervisor


@click.command("supervise")
def command() -> None:
    """Run all services in the foreground."""
    supervisor.main()
