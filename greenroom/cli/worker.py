"""``greenroom worker``: the Temporal worker of this host, until SIGTERM."""

from __future__ import annotations

import os

import click

import worker
from greenroom.services.logs import log_to_stderr

_NICENESS = 5
"""Preparing containers yields to claims, whose workflows run in the other process."""


@click.command("worker")
@click.option(
    "--serve",
    "part",
    type=click.Choice(["all", "workflows", "activities"]),
    default="all",
    show_default=True,
    help="What this process takes up.",
)
def command(part: str) -> None:
    """Serve as the Temporal worker of this host."""
    log_to_stderr()
    if part == "activities":
        os.nice(_NICENESS)
    worker.main(part)
