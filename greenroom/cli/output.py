"""What people read: one JSON document, aligned tables, short times. Messages go to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from greenroom.core import spans

span = spans.span


def emit(value: Any) -> None:  # noqa: ANN401 - any JSON
    """The one document of ``--json`` on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """A message for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def progress(step: str, detail: str) -> None:
    """A ``greenroom.services.progress.Report`` on stderr."""
    say(f"{step:<12} {detail}")


def plain(value: object) -> str:
    """Text of a container as people may see it: what would steer their terminal is spelled out."""
    return "".join(
        one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode()
        for one in str(value)
    )


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> None:
    """Rows in aligned columns under a head, on stdout; no rows: nothing."""
    if not rows:
        return
    cells = [[*map(str.upper, head)], *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def fields(pairs: Sequence[tuple[str, object]]) -> None:
    """Names and values in two aligned columns on stdout; empty values are left out."""
    shown = [(name, plain(value)) for name, value in pairs if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name:<{width}}  {value}")


def counted(count: int, thing: str) -> str:
    """``1 commit``, ``2 commits``."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def until(epoch: float) -> str:
    """How long until a moment."""
    return span(epoch - time.time())


def since(epoch: float) -> str:
    """How long since a moment; ``-`` for none."""
    return span(time.time() - epoch) if epoch else "-"


def percent(ratio: float | None) -> str:
    """A ratio in percent; ``-`` for none."""
    return "-" if ratio is None else f"{ratio * 100:.0f}%"


def size(count: float) -> str:
    """Bytes in a short form."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
