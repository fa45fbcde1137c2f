# ruff: noqa: INP001  a script beside the pages that it writes
"""Writes the generated pieces of the docs: `python docs/generate.py`.

A piece stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; the text around it is
written by hand and kept. ``tests/test_docs.py`` fails when a piece is not what the code says.
"""

from __future__ import annotations

import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from greenroom.api.access import RULES, WEBSOCKET, Rule, Subject
from greenroom.api.app import make_app
from greenroom.cli.main import COMMANDS, PLANNED, cli
from greenroom.core import config
from greenroom.core.errors import BY_CODE
from greenroom.core.lifecycle import TRANSITIONS, State
from greenroom.metrics import METRICS

DOCS = Path(__file__).parent
_PIECE = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def lifecycle() -> str:
    """A Mermaid diagram of the table of transitions."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.CREATING}"]
    lines += [f"    {old} --> {new}: {event}" for (old, event), new in TRANSITIONS.items()]
    return "\n".join([*lines, f"    {State.RETIRED} --> [*]", "```"])


def transitions() -> str:
    """The table itself."""
    rows = [f"| {old} | {event} | {new} |" for (old, event), new in TRANSITIONS.items()]
    return "\n".join(["| state | event | then |", "| --- | --- | --- |", *rows])


def configuration() -> str:
    """Every key of a pool file."""
    rows = [
        f"| `{key}` | {_kind(known)} | {_default(known)} | {_sentence(known.description or '')} |"
        for key, known in _keys(config.PoolConfig)
    ]
    return "\n".join(["| key | value | default | what it is |", "| --- | --- | --- | --- |", *rows])


def planned_keys() -> str:
    """Designed keys that are refused for now."""
    shown = {"build_image": "build: {dockerfile: …}"}
    rows = [f"| `{shown.get(key, key)}` | {what} |" for key, what in config.PLANNED.items()]
    return "\n".join(["| key | what it will do |", "| --- | --- |", *rows])


def commands() -> str:
    """Every command's help as the program prints it."""
    parts = []
    for name, line in COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        if command is None:
            raise LookupError(f"command {name} is listed and not there")
        inner = command.commands if isinstance(command, click.Group) else {}
        told = [_help(command, f"greenroom {name}")]
        told += [_help(one, f"greenroom {name} {own}") for own, one in inner.items()]
        parts.append("\n\n".join([f"## {name}", line, *told]))
    planned = ", ".join(f"`{name}`" for name in PLANNED)
    return "\n\n".join([*parts, f"Planned and not there yet: {planned}."])


def _help(command: click.Command, name: str) -> str:
    context = click.Context(
        command, info_name=name, terminal_width=96, max_content_width=96, **cli.context_settings
    )
    return f"```text\n{command.get_help(context)}\n```"


def endpoints() -> str:
    """Every route of the API, from its OpenAPI document and the table of access."""
    described: dict[tuple[str, str], str] = {
        (method.upper(), path): str(operation["description"]).split("\n")[0]
        for path, methods in make_app(None).openapi()["paths"].items()  # type: ignore[arg-type]
        for method, operation in methods.items()
    }
    described[WEBSOCKET, "/v1/claims/{claim_id}/exec"] = "A command in it, with its streams."
    described[WEBSOCKET, "/v1/claims/{claim_id}/forward"] = "A TCP port on its loopback."
    described["GET", "/openapi.json"] = "This, for programs."
    rows = []
    for route, rule in RULES.items():
        method, path = route
        body = _size(rule.body) if method in ("POST", "PUT") else "-"
        scope = f"{rule.scope or 'no token'}{_whose(rule)}"
        does = re.sub(r" Raises [^.]*\.$", "", described[route]).replace("``", "`")
        rows.append(f"| `{method}` | `{path}` | {scope} | {body} | {does} |")
    head = ["| method | path | scope | largest body | does |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def _whose(rule: Rule) -> str:
    return ", of all pools" if rule.subject is Subject.ALL_POOLS else ""


def error_codes() -> str:
    """Every error that the API answers with."""
    rows = [
        f"| {error.http_status} | `{code}` | {(error.__doc__ or '').splitlines()[0]} |"
        for code, error in sorted(BY_CODE.items(), key=lambda one: (one[1].http_status, one[0]))
    ]
    return "\n".join(["| status | `error` | means |", "| --- | --- | --- |", *rows])


def metrics() -> str:
    """Every metric."""
    rows = [f"| `{m.name}` | {m.kind} | {', '.join(m.labels) or '-'} | {m.help} |" for m in METRICS]
    return "\n".join(
        ["| metric | kind | labels | what it is |", "| --- | --- | --- | --- |", *rows]
    )


PIECES: dict[str, Callable[[], str]] = {
    "lifecycle": lifecycle,
    "transitions": transitions,
    "configuration": configuration,
    "planned-keys": planned_keys,
    "commands": commands,
    "endpoints": endpoints,
    "error-codes": error_codes,
    "metrics": metrics,
}
PAGES = ("lifecycle.md", "configuration.md", "commands.md", "metrics.md", "api.md")


def rendered(page: str) -> str:
    """The text of a page with its pieces made anew."""

    def piece(found: re.Match[str]) -> str:
        return f"{found[1]}{PIECES[found[2]]()}\n{found[3]}"

    return _PIECE.sub(piece, (DOCS / page).read_text())


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, known in model.model_fields.items():
        inner = known.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, known


def _kind(known: FieldInfo) -> str:
    readers = {getattr(part, "func", None) for part in known.metadata}
    if config.duration in readers:
        return f"time{_bounds(known, _time)}"
    if config.size_in_bytes in readers:
        return f"size{_bounds(known, _size)}"
    optional = typing.get_origin(known.annotation) in (types.UnionType, typing.Union)
    kinds = typing.get_args(known.annotation) if optional else (known.annotation,)
    first = next(kind for kind in kinds if kind is not types.NoneType)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    if first in names:
        return names[first] + _bounds(known, str)
    if typing.get_origin(known.annotation) is typing.Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(known.annotation))
    return "list of text" if typing.get_origin(first) is tuple else "keys and values"


def _bounds(known: FieldInfo, show: Callable[[float], str]) -> str:
    low = [part.ge for part in known.metadata if hasattr(part, "ge")]
    above = [part.gt for part in known.metadata if hasattr(part, "gt")]
    high = [part.le for part in known.metadata if hasattr(part, "le")]
    said = [f"at least {show(b)}" for b in low] + [f"above {show(b)}" for b in above]
    said += [f"at most {show(b)}" for b in high]
    return f", {', '.join(said)}" if said else ""


def _default(known: FieldInfo) -> str:
    if known.is_required():
        return "required"
    readers = {getattr(part, "func", None) for part in known.metadata}
    value = known.get_default(call_default_factory=True)
    if value is None:
        # Of a bound, None is none; of a list, it is what the repository says.
        counted = int in typing.get_args(known.annotation)
        return "none" if counted else "chosen from the files there"
    if config.duration in readers:
        return f"`{_time(value)}`"
    if config.size_in_bytes in readers:
        return f"`{_size(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value not in ((), {}, "") else "none"


def _time(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def _size(size: float) -> str:
    for unit, length in (("g", 1024**3), ("m", 1024**2), ("k", 1024)):
        if size >= length and size % length == 0:
            return f"{size / length:g}{unit}"
    return f"{size:g}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def main() -> None:
    """Write every page."""
    for page in PAGES:
        (DOCS / page).write_text(rendered(page))
        sys.stdout.write(f"docs/{page}\n")


if __name__ == "__main__":
    main()
