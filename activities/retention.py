"""Saved work past its time or beyond its pool's budget: found, and removed with a line in the log.

Work that could not be saved is not here: it is a stopped container, kept by its own rules.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from activities.keptpools import kept_config
from activities.saving import SUMMARY
from greenroom.core.config import SavedTerms
from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths
from greenroom.core.retention import Pruned, SavedEntry, prune

_LOG = logging.getLogger(__name__)


def work_to_prune(paths: StatePaths, now: float) -> Iterator[tuple[Path, Pruned]]:
    """The folders of claims whose saved work goes, pool by pool, oldest first."""
    for folder in sorted(paths.saved.iterdir()) if paths.saved.is_dir() else ():
        if folder.is_dir() and not folder.name.startswith("."):
            entries = [one for path in folder.iterdir() if (one := _entry(path)) is not None]
            for pruned in prune(entries, _terms(paths, folder.name), now):
                yield folder / pruned.name, pruned


def prune_work(place: Path, pruned: Pruned) -> None:
    """Remove one. Raises OSError."""
    shutil.rmtree(place)
    _LOG.info("saved work of %s/%s removed: %s", place.parent.name, place.name, pruned.why)


def _terms(paths: StatePaths, pool: str) -> SavedTerms:
    """As the pool's file says; those of a pool without one are the defaults."""
    try:
        config = kept_config(paths, pool)
    except UsageError as error:
        _LOG.warning("the defaults hold for saved work of %s: %s", pool, error)
        config = None
    return config.saved if config is not None else SavedTerms()


def _entry(path: Path) -> SavedEntry | None:
    """None for what is no claim's finished work: it is being written, or vanishes just now."""
    if path.name.startswith("."):
        return None
    try:
        at = (path / SUMMARY).lstat().st_mtime
        size = sum(one.lstat().st_size for one in path.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return SavedEntry(path.name, at, size)
