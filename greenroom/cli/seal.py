"""``greenroom seal``: a secret that only one pool's host can open, for claims over Temporal."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from greenroom.cli.http_client import open_api
from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit
from greenroom.core.errors import UsageError
from greenroom.core.names import check_claim_id, check_pool_name
from greenroom.core.sealed import VARIABLE, Content
from greenroom.sealing import PublicKey


@click.command("seal")
@click.argument("pool")
@click.argument("names", nargs=-1, metavar="NAME[=@FILE|=-]...")
@click.option("--claim", default="", help="Good for this claim id alone.")
@click.option("--expires", type=SPAN, help="Good for so long; omitted: as long as the pool's key.")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="The pool's public key in a file, for use without the API.",
)
@click.option("--key", "show_key", is_flag=True, help="Print the public key, for --key-file.")
@json_option
def command(  # noqa: PLR0913, PLR0917 - click's
    pool: str,
    names: tuple[str, ...],
    claim: str,
    expires: float | None,
    key_file: Path | None,
    show_key: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Seal secrets for POOL: each from a file, from standard input (=-), or typed in."""
    check_pool_name(pool)
    if claim:
        check_claim_id(claim)
    key = _from_file(key_file, pool) if key_file else PublicKey.parse(_ask(pool))
    if show_key:
        print(key.text)
        return
    if not names:
        raise UsageError("which secret? write NAME, NAME=@FILE or NAME=-")
    until = time.time() + expires if expires else 0.0
    found = {}
    for name, value in (_value(text) for text in names):
        content = Content(pool=pool, name=name, value=value, claim_id=claim, expires_at=until)
        found[name] = key.seal(content)
    if as_json or len(found) > 1:
        emit(found)
    else:
        print(*found.values())


def _ask(pool: str) -> str:
    return str(open_api().get("pools", pool, "key")["key"])


def _from_file(path: Path, pool: str) -> PublicKey:
    """The key in a file: its text, or the API's document."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--key-file: {path} cannot be read: {error}") from error
    if text.lstrip().startswith("{"):
        try:
            told = json.loads(text)
            named, text = str(told["pool"]), str(told["key"])
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"--key-file: {path} is not what the API gives as a key") from None
        if named != pool:
            raise UsageError(f"--key-file: {path} is the key of pool {named}, not of {pool}")
    return PublicKey.parse(text)


def _value(text: str) -> tuple[str, str]:
    name, equals, source = text.partition("=")
    if not VARIABLE.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a variable; use letters, digits and _")
    if equals and source != "-" and not source.startswith("@"):
        # A value on the command line is readable for every user of the machine.
        raise UsageError(f"{name}: write {name}=@FILE, {name}=- or {name} alone")
    try:
        if source.startswith("@"):
            return name, Path(source[1:]).read_text()
        if equals or not sys.stdin.isatty():
            return name, sys.stdin.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name} cannot be read: {error}") from error
    return name, str(click.prompt(name, hide_input=True, err=True))
