"""How a long step tells a person what it is doing."""

from __future__ import annotations

from typing import Protocol


class Report(Protocol):
    """Called at the start of each step and as it goes on; must not block for long."""

    def __call__(self, step: str, detail: str) -> None:
        """``step`` is a short name (``docker``, ``base image``); ``detail`` is one line."""


def silent(step: str, detail: str) -> None:
    """A Report for callers that show nothing."""
