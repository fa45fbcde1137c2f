"""Unpacking an archive that a container made, which may be hostile, below one folder.

Nothing is written through a symbolic link below that folder, whoever put it there; links that lead
out of it, devices and names that climb out are left out and named. The modes of files keep their
permission bits, nothing else.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from greenroom.core.errors import TooLargeError, UsageError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_ENTRIES = 1_000_000


class Unpacker:
    """``rename``: what the top of the archive is called below ``folder``."""

    def __init__(self, folder: Path, rename: str, limit: int) -> None:
        self._folder = folder
        self._rename = rename
        self._limit = limit
        self._links: list[tuple[list[str], str]] = []
        self.files = 0
        self.bytes = 0
        self.left_out: list[str] = []

    def unpack(self, stream: IO[bytes]) -> None:
        """All of it. Raises UsageError, TooLargeError, tarfile.TarError, OSError."""
        root = os.open(self._folder, _FOLDER & ~os.O_NOFOLLOW)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for count, entry in enumerate(archive):
                    if count >= _MOST_ENTRIES:
                        raise TooLargeError(f"more than {_MOST_ENTRIES} files")
                    self._take(root, archive, entry)
            # Links last: nothing that was written went through one of them.
            for parts, target in self._links:
                self._link(root, parts, target)
        finally:
            os.close(root)

    def _take(self, root: int, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        parts = self._parts(entry.name)
        if parts is None:
            self._leave_out(entry.name, "it climbs out of the archive")
        elif entry.isdir():
            _below(root, parts, _close)
        elif entry.issym():
            self._links.append((parts, entry.linkname))
        elif entry.isreg():
            self.bytes += entry.size
            if self.bytes > self._limit:
                raise TooLargeError(f"more than {self._limit} bytes", limit=self._limit)
            content = archive.extractfile(entry)
            if content is not None:
                _below(root, parts[:-1], lambda at: _write(at, parts[-1], content, entry.mode))
                self.files += 1
        elif entry.islnk():
            self._leave_out(entry.name, f"a hard link to {entry.linkname}")
        else:
            self._leave_out(entry.name, "a device or the like")

    def _parts(self, name: str) -> list[str] | None:
        _, *parts = [part for part in name.split("/") if part] or [""]
        if ".." in name.split("/") or "\0" in name or name.startswith("/"):
            return None
        return [self._rename, *(part for part in parts if part != ".")]

    def _link(self, root: int, parts: list[str], target: str) -> None:
        name = "/".join(parts)

        def make(at: int) -> None:
            _clear(at, parts[-1])
            os.symlink(target, parts[-1], dir_fd=at)
            where = Path(self._folder, *parts)
            if not where.resolve().is_relative_to(self._folder.resolve()):
                os.unlink(parts[-1], dir_fd=at)
                self._leave_out(name, f"a link to {target}")

        try:
            _below(root, parts[:-1], make)
        except RuntimeError:  # a ring of links
            _below(root, parts[:-1], lambda at: _clear(at, parts[-1]))
            self._leave_out(name, f"a link to {target}")

    def _leave_out(self, name: str, why: str) -> None:
        plain = name.encode("unicode_escape").decode()
        self.left_out.append(f"{plain}: {why}")


def _below(root: int, parts: list[str], act: Callable[[int], None]) -> None:
    """Call ``act`` with the folder at ``parts`` below ``root``, made where it is not there."""
    at = os.dup(root)
    try:
        for part in parts:
            with suppress(FileExistsError):
                os.mkdir(part, 0o777, dir_fd=at)
            try:
                inner = os.open(part, _FOLDER, dir_fd=at)
            except OSError as error:
                raise UsageError(
                    f"{'/'.join(parts)}: {part} is there already and not a folder"
                ) from error
            os.close(at)
            at = inner
        act(at)
    finally:
        os.close(at)


def _close(_: int) -> None:
    """A folder needs nothing more than to be there."""


def _clear(at: int, name: str) -> None:
    try:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=at)
    except IsADirectoryError:
        raise UsageError(f"{name} is a folder here, and not in the archive") from None


def _write(at: int, name: str, content: IO[bytes], mode: int) -> None:
    _clear(at, name)
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, how, (mode & 0o777) | 0o200, dir_fd=at)
    with os.fdopen(fd, "wb") as target:
        shutil.copyfileobj(content, target)
