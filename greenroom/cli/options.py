"""Options that several commands share."""

from __future__ import annotations

import base64
import getpass
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from greenroom.core.errors import PlannedError, UsageError

F = TypeVar("F", bound=Callable[..., Any])

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else there."
)


class Span(click.ParamType):  # type: ignore[type-arg]  # older clicks have none
    """Seconds, from ``90``, ``90s``, ``5m``, ``1h`` or ``2d``."""

    name = "time"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Click's own."""
        if isinstance(value, int | float):
            return float(value)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value).strip())
        if not found:
            self.fail(f"{value!r}: write a time such as 90s, 5m, 1h or 2d", param, ctx)
        return float(found[1]) * _SECONDS[found[2]]


SPAN = Span()


def claim_options(function: F) -> F:
    """The options of ``claim``, which ``run`` has too; they arrive as ``**wanted``."""
    here = [
        click.option("--id", "claim_id", help="The claim's id; the same id gets the same lease."),
        click.option("--ttl", type=SPAN, default=0.0, help="How long the claim lives."),
        click.option(
            "--wait", type=SPAN, default=60.0, show_default="60s",
            help="How long to wait for a container when none is ready.",
        ),
        click.option(
            "--heartbeat", type=SPAN, default=0.0,
            help="Give it up when its holder is not heard of for this long.",
        ),
        click.option("--env", multiple=True, metavar="K=V", help="An environment variable."),
        click.option(
            "--secret", multiple=True, metavar="NAME=@FILE", help="A secret, read from a file."
        ),
        click.option(
            "--sealed", multiple=True, metavar="NAME=VALUE",
            help="A secret from `greenroom seal`; =@FILE reads it from a file.",
        ),
        click.option(
            "--host-secret", "host_secrets", multiple=True, metavar="NAME",
            help="A secret of the host, by its name in secrets.yaml.",
        ),
        click.option(
            "--file", "files", multiple=True, metavar="[NAME=]PATH",
            help="A file for /run/greenroom/files.",
        ),
        click.option("--label", multiple=True, metavar="K=V", help="A label of the claim."),
        click.option("--git-name", default="", help="The name that commits are made under."),
        click.option("--git-email", default="", help="The address that commits are made under."),
        click.option(
            "--priority", type=click.IntRange(-100, 100), default=0, show_default=True,
            help="A higher one is served first.",
        ),
        *(_planned(name) for name in ("--sha", "--ref", "--max-age")),
        _planned("--at-head", is_flag=True),
    ]  # fmt: skip
    for option in reversed(here):
        function = option(function)
    return function


def _planned(name: str, *, is_flag: bool = False) -> Callable[[F], F]:
    def refuse(_: click.Context, option: click.Parameter, value: object) -> None:
        if value:
            raise PlannedError(f"{option.opts[0]} is planned and not there yet")

    return click.option(
        name, is_flag=is_flag, hidden=True, expose_value=False, callback=refuse, default=None
    )


def claim_body(wanted: dict[str, Any]) -> dict[str, Any]:
    """The body of a claim request. Raises UsageError."""
    return {
        "claim_id": wanted["claim_id"] or new_claim_id(),
        "holder": getpass.getuser(),
        "ttl_s": wanted["ttl"],
        "wait_s": wanted["wait"],
        "labels": pairs(wanted["label"], "--label"),
        "priority": wanted.get("priority", 0),
        "count": wanted.get("count", 1),
        "partial": wanted.get("partial", False),
        "env": environment(wanted["env"]),
        "secrets": {name: text.decode() for name, text in _secrets(wanted["secret"])},
        "sealed": dict(_sealed(wanted["sealed"])),
        "host_secrets": wanted["host_secrets"],
        "files": dict(_files(wanted["files"])),
        "git_name": wanted["git_name"],
        "git_email": wanted["git_email"],
        "heartbeat_s": wanted["heartbeat"],
    }


def check_terminal(*, interactive: bool, tty: bool, as_json: bool) -> None:
    """Refuse combinations that cannot work. Raises UsageError."""
    if tty and as_json:
        raise UsageError("-t and --json do not go together")
    if tty and interactive and not sys.stdin.isatty():
        raise UsageError("-i -t needs a terminal on standard input; leave -t out")


def new_claim_id() -> str:
    """An id that people can type: ``c`` and 50 random bits."""
    return "c" + "".join(_ALPHABET[byte & 31] for byte in os.urandom(10))


def pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    """``K=V`` texts as a dict. Raises UsageError."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{option} {text!r}: write NAME=VALUE")
        found[name] = value
    return found


def environment(texts: tuple[str, ...]) -> dict[str, str]:
    """As ``pairs``; a bare ``NAME`` takes this process's own value. Raises UsageError."""
    whole = []
    for text in texts:
        if "=" not in text and text not in os.environ:
            raise UsageError(f"--env {text!r}: write NAME=VALUE, or set {text} here")
        whole.append(text if "=" in text else f"{text}={os.environ[text]}")
    return pairs(tuple(whole), "--env")


def _secrets(texts: tuple[str, ...]) -> list[tuple[str, bytes]]:
    found = []
    for name, value in pairs(texts, "--secret").items():
        if not value.startswith("@"):
            # A value on the command line is readable for every user of the machine.
            raise UsageError(f"--secret {name}: write {name}=@FILE, with the secret in that file")
        content = _read(Path(value[1:]), "--secret")
        try:
            content.decode()
        except UnicodeDecodeError:
            raise UsageError(f"--secret {name}: {value[1:]} is not UTF-8; use --file") from None
        found.append((name, content))
    return found


def _sealed(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [
        (name, _read(Path(value[1:]), "--sealed").decode().strip() if value[0] == "@" else value)
        for name, value in pairs(texts, "--sealed").items()
        if value
    ]


def _files(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        name, equals, value = text.partition("=")
        path = Path((value if equals else name).removeprefix("@"))
        content = base64.b64encode(_read(path, "--file")).decode()
        found.append((name if equals else path.name, content))
    return found


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option}: {path} cannot be read: {error.strerror}") from error
