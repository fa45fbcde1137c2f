"""``greenroom schema``: what a pool file may say."""

from __future__ import annotations

import click

from greenroom.cli.options import json_option
from greenroom.cli.output import emit
from greenroom.poolfile import schema


@click.command("schema")
@json_option
def command(as_json: bool) -> None:  # noqa: ARG001, FBT001 - it is JSON anyway
    """Print the JSON Schema of pool files."""
    emit(schema())
