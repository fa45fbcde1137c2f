"""``greenroom exec``: a command in a claimed container, with its streams and its exit code."""

from __future__ import annotations

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import check_terminal, environment, json_option
from greenroom.cli.output import emit
from greenroom.cli.streaming import Kept, Order, stream, to_streams


@click.command("exec")
@click.argument("claim")
@click.argument("line", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
@click.option("-i", "--interactive", is_flag=True, help="Feed it our standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-e", "--env", multiple=True, metavar="K=V", help="An environment variable.")
@click.option("-w", "--workdir", default="", help="Where to run; omitted: the work tree.")
@click.option("--token", type=int, help="Refuse unless this is the live lease's token.")
@json_option
def command(  # noqa: PLR0913, PLR0917 - click's
    claim: str,
    line: tuple[str, ...],
    interactive: bool,  # noqa: FBT001
    tty: bool,  # noqa: FBT001
    env: tuple[str, ...],
    workdir: str,
    token: int | None,
    as_json: bool,  # noqa: FBT001
) -> int:
    """Run a command in the container of CLAIM."""
    check_terminal(interactive=interactive, tty=tty, as_json=as_json)
    order = Order(
        claim_id=claim,
        command=line,
        stdin=interactive,
        tty=tty,
        env=environment(env),
        workdir=workdir,
        token=token,
    )
    kept = Kept()
    code = stream(open_api(), order, kept if as_json else to_streams)
    if as_json:
        emit({"claim_id": claim, "exit_code": code, "stdout": kept.stdout, "stderr": kept.stderr})
    return code
