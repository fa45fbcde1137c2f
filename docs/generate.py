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

from greenroom.cli.main import COMMANDS, PLANNED, cli
from greenroom.core import config
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
        context = click.Context(
            command, info_name=f"greenroom {name}", terminal_width=96, max_content_width=96
        )
        parts.append(f"## {name}\n\n{line}\n\n```text\n{command.get_help(context)}\n```")
    planned = ", ".join(f"`{name}`" for name in PLANNED)
    return "\n\n".join([*parts, f"Planned and not there yet: {planned}."])


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
    "metrics": metrics,
}
PAGES = ("lifecycle.md", "configuration.md", "commands.md", "metrics.md")


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
        return "chosen from the files there"
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
