"""The one entry point, and the one place where errors become exit codes.

Quick commands must start quickly, so nothing is imported here but click and the standard
library; ``COMMANDS`` says what there is without importing any of it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import click

from greenroom.core.errors import GreenroomError, PlannedError, UsageError

COMMANDS = {
    "up": "Get everything running: Docker, Temporal, services, a pool.",
    "down": "Stop everything; state and saved work stay.",
    "apply": "Make pools, or change them, from pool files.",
    "delete": "End a pool and all its containers.",
    "pools": "List the pools.",
    "status": "Show a pool, or all of them.",
    "claim": "Get a prepared container.",
    "claims": "List the live claims.",
    "exec": "Run a command in a claimed container.",
    "cp": "Copy files into a claimed container, or out of it.",
    "forward": "Reach a port of a claimed container from here.",
    "shell": "Open a shell in a claimed container.",
    "run": "Claim, run one command, release.",
    "task": "Show a detached command.",
    "extend": "Lengthen a claim.",
    "heartbeat": "Say that a claim's holder is there.",
    "hold": "Keep a claim for debugging.",
    "transfer": "Give a claim to another holder.",
    "release": "End a claim; its work is saved.",
    "saved": "List, show, apply, export and delete the work that ended claims left.",
    "logs": "Show what preparing printed.",
    "pause": "Have a pool prepare nothing new.",
    "resume": "End a pause.",
    "resize": "Change how many ready containers a pool keeps.",
    "refresh": "Bring a pool to the newest commit now.",
    "doctor": "Check the machine and this install.",
    "seal": "Seal a secret for one pool.",
    "schema": "Print the JSON Schema of pool files.",
    "token": "Make, list and revoke tokens of the API.",
    "services": "Show the processes of this install, or restart one.",
    "worker": "Serve as the Temporal worker of this host.",
    "api": "Serve as the API of this host.",
    "gate": "Serve as the gate of this host.",
    "opener": "Serve as the opener of this host.",
    "supervise": "Run all services in the foreground.",
}
"""Every command, in the order of the help; ``greenroom/cli/<name>.py`` has its ``command``."""

LOCAL = (
    "up",
    "down",
    "doctor",
    "token",
    "services",
    "worker",
    "api",
    "gate",
    "opener",
    "supervise",
)
"""Commands for the machine itself; a GREENROOM_URL they do not look at."""

PLANNED = ("egress", "audit", "simulate", "drain")
"""Commands that the design names and this version does not have."""

_PASSING = ("exec", "run", "shell")
"""Commands whose own exit codes are those of what they run."""


class _Lazy(click.Group):
    """Commands by name, imported when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in PLANNED:
            raise PlannedError(f"`greenroom {cmd_name}` is planned and not there yet")
        if cmd_name in LOCAL and os.environ.get("GREENROOM_URL"):
            raise UsageError(
                f"`greenroom {cmd_name}` works on the machine itself, not over the API: run it "
                "there, without GREENROOM_URL"
            )
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"greenroom.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
    if wanted:
        print(_version())
        context.exit()


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version)
def cli() -> None:
    """A durable warm pool of prepared development containers."""


@dataclass(frozen=True)
class _Style:
    """How the outcome of one command line is told."""

    json: bool
    passing: bool

    def code(self, error: GreenroomError) -> int:
        return error.exec_exit_code if self.passing else error.exit_code


def main() -> NoReturn:
    """Run the command line of this process and end it."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or 141
    # The Temporal SDK's threads can crash or hang an interpreter that ends the usual way; and
    # nothing is left to do.
    os._exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; its exit code."""
    own = list(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    style = _Style(json="--json" in own, passing=bool(own) and own[0] in _PASSING)
    try:
        result = cli.main(list(arguments), prog_name="greenroom", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (click.ClickException, GreenroomError) as error:
        return _refuse(error, style)
    except (KeyboardInterrupt, click.Abort):
        print("greenroom: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except Exception as error:  # noqa: BLE001 - the boundary: a bug becomes a report
        return _report(error, arguments, style)


def _click_message(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    return error.format_message() + hint


def _refuse(refused: click.ClickException | GreenroomError, style: _Style) -> int:
    error = (
        UsageError(_click_message(refused))
        if isinstance(refused, click.ClickException)
        else refused
    )
    if style.json:
        told = {"error": error.code, "message": error.message, "details": error.details}
        print(json.dumps(told, indent=2))
    tail = error.details.get("tail")
    if tail:
        print(str(tail).rstrip(), file=sys.stderr)
    print(f"greenroom: {error.message}", file=sys.stderr)
    return style.code(error)


def _report(error: Exception, arguments: Sequence[str], style: _Style) -> int:
    import platform  # noqa: PLC0415 - for bugs alone
    import traceback  # noqa: PLC0415

    what = f"{type(error).__name__}: {error}"
    if style.json:
        print(json.dumps({"error": "internal", "message": what, "details": {}}, indent=2))
    traceback.print_exception(error, file=sys.stderr)
    command = next((word for word in arguments if not word.startswith("-")), "")
    print(
        f"greenroom {_version()}, Python {platform.python_version()}, {platform.platform()}, "
        f"command {command!r}\n"
        f"greenroom: this is a bug ({what}); please report the lines above",
        file=sys.stderr,
    )
    return 125 if style.passing else 1


def _version() -> str:
    from importlib.metadata import version  # noqa: PLC0415 - 20 ms that few commands need

    return version("greenroom")
