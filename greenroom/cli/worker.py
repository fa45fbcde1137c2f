"""``greenroom worker``: the Temporal worker of this host, until SIGTERM."""

from __future__ import annotations

import click

import worker


@click.command("worker")
def command() -> None:
    """Serve as the Temporal worker of this host."""
    worker.main()
