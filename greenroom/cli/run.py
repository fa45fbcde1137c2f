"""``greenroom run``: claim, one command, release; the claim ends whatever happens."""

from __future__ import annotations

import signal
import threading
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

from greenroom.cli.claiming import give_back, take
from greenroom.cli.detached import Detached, start_detached
from greenroom.cli.http_client import Api, open_api
from greenroom.cli.options import SPAN, check_terminal, claim_body, claim_options, json_option
from greenroom.cli.output import emit, say, until
from greenroom.core.errors import GreenroomError, UsageError

_STREAMS = "greenroom.cli.streaming"
_ATTEMPTS = "With --detach: starts in all when nobody saw how it ended; only where that is safe."


@click.command("run")
@click.argument("pool")
@click.argument("line", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD...")
@click.option("-i", "--interactive", is_flag=True, help="Feed it our standard input.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("-w", "--workdir", default="", help="Where to run; omitted: the work tree.")
@click.option("--detach", is_flag=True, help="Start it as a Task, print its id, do not wait.")
@click.option("--timeout", type=SPAN, help="With --detach: how long the command may take.")
@click.option("--attempts", type=click.IntRange(1, 20), help=_ATTEMPTS)
@click.option("--discard", is_flag=True, help="Do not save what it changed.")
@click.option("--hold", type=SPAN, help="If it fails, keep the claim for this long, to look at it.")
@claim_options
@json_option
def command(  # noqa: PLR0913, PLR0917 - click's
    pool: str,
    line: tuple[str, ...],
    interactive: bool,  # noqa: FBT001
    tty: bool,  # noqa: FBT001
    workdir: str,
    detach: bool,  # noqa: FBT001
    timeout: float | None,
    attempts: int | None,
    discard: bool,  # noqa: FBT001
    hold: float | None,
    as_json: bool,  # noqa: FBT001
    **wanted: Any,  # noqa: ANN401
) -> int:
    """Run one command in a container of POOL, claimed for it alone."""
    check_terminal(interactive=interactive, tty=tty, as_json=as_json)
    if detach:
        if interactive or tty:
            raise UsageError("--detach goes neither with -i nor with -t")
        if hold:
            raise UsageError("--hold does not go with --detach: a Task saves its work and ends")
        task = Detached(line, workdir, timeout or 0.0, attempts or 1, save=not discard)
        start_detached(pool, task, wanted, as_json=as_json)
        return 0
    if timeout is not None or attempts is not None:
        raise UsageError("--timeout and --attempts go with --detach")
    signal.signal(signal.SIGTERM, _end)
    api = open_api()
    # What streams takes as long to import as a claim takes to be granted: both at once.
    threading.Thread(target=import_module, args=(_STREAMS,), daemon=True).start()
    granted = take(api, pool, claim_body(wanted), named=bool(wanted["claim_id"]))
    from greenroom.cli.streaming import Kept, Order, stream, to_streams  # noqa: PLC0415 - as above

    kept = Kept()
    code: int | None = None
    try:
        order = Order(
            claim_id=granted["claim_id"],
            command=line,
            stdin=interactive,
            tty=tty,
            workdir=workdir,
            token=granted["token"],
        )
        code = stream(api, order, kept if as_json else to_streams)
    finally:
        if not (hold and code and _held(api, granted, hold)):
            give_back(api, pool, granted["claim_id"], save=not discard)
    if as_json:
        emit({"claim": granted, "exit_code": code, "stdout": kept.stdout, "stderr": kept.stderr})
    return code


def _held(api: Api, granted: dict[str, Any], ttl: float) -> bool:
    """Keep the claim of a command that failed; False when that cannot be."""
    claim = granted["claim_id"]
    body = {"ttl_s": ttl, "token": granted["token"], "hold": True}
    try:
        reply = api.post("claims", claim, "extend", body=body)
    except GreenroomError as error:
        say(f"greenroom: claim {claim} is not held: {error.message}")
        return False
    left = until(reply["expires_at"])
    say(f"greenroom: held for {left}: `greenroom shell {claim}`, then `greenroom release {claim}`")
    return True


def _end(signum: int, _: FrameType | None) -> NoReturn:
    """As if interrupted: the claim is released on the way out."""
    raise SystemExit(128 + signum)
