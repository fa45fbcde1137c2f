"""``greenroom shell``: an interactive shell in a claimed container."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import check_terminal
from greenroom.cli.streaming import Order, stream

_SHELL = "if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi"


@click.command("shell")
@click.argument("claim")
def command(claim: str) -> int:
    """Open a shell in the container of CLAIM."""
    check_terminal(interactive=True, tty=True, as_json=False)
    order = Order(claim_id=claim, command=("/bin/sh", "-c", _SHELL), stdin=True, tty=True)
    return stream(open_api(), order)
