"""Tells from outside whether anything in a container's work tree has changed.

On overlayfs every change (content, mode, deletion, rename) leaves an entry in the container's
upper folder with a new change time, which no program inside can set. So equal marks prove an
unchanged work tree; unequal ones prove nothing and lead to a full comparison.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator

from activities.engine import Engine

_MOST_ENTRIES = 200_000
_MOST_DEEP = 100
"""Folders within each other that are looked into; each holds a descriptor while it is."""


def worktree_mark(engine: Engine, container: str, workdir: str) -> str:
    """A hash over what a container changed below ``workdir``; empty where it cannot be had."""
    seen = engine.inspect(container)
    driver = (seen or {}).get("GraphDriver") or {}
    if seen is None or driver.get("Name") != "overlay2":
        return ""
    inside = workdir.rstrip("/") + "/"
    if any((str(m.get("Destination", "")) + "/").startswith(inside) for m in seen["Mounts"]):
        return ""
    return _mark(str(driver["Data"]["UpperDir"]), [part for part in workdir.split("/") if part])


def _mark(upper: str, parts: list[str]) -> str:
    digest = hashlib.sha256()
    try:
        fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""  # the engine keeps its layers where we cannot look
    try:
        for part in parts:
            status = _lstat(part, fd)
            _add(digest, part, status)
            if status is None or not stat.S_ISDIR(status.st_mode):
                return digest.hexdigest()
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            os.close(fd)
            fd = inner
        for count, (path, status) in enumerate(_walk(fd, "")):
            if count > _MOST_ENTRIES or path.count("/") > _MOST_DEEP:
                return ""
            _add(digest, path, status)
    finally:
        os.close(fd)
    return digest.hexdigest()


def _walk(fd: int, prefix: str) -> Iterator[tuple[str, os.stat_result | None]]:
    """Every entry below an open folder, sorted, links not followed."""
    for name in sorted(os.listdir(fd)):
        status = _lstat(name, fd)
        yield prefix + name, status
        if status is not None and stat.S_ISDIR(status.st_mode):
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            try:
                yield from _walk(inner, f"{prefix}{name}/")
            finally:
                os.close(inner)


def _lstat(name: str, fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _add(digest: hashlib._Hash, path: str, status: os.stat_result | None) -> None:
    facts = (
        None
        if status is None
        else (status.st_ino, status.st_mode, status.st_size, status.st_ctime_ns, status.st_rdev)
    )
    digest.update(f"{path!r} {facts}\n".encode(errors="surrogateescape"))
