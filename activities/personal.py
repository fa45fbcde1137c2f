"""Writes what belongs to one claim's holder into the container's personal tmpfs.

The folder is reached from outside, while the container's user owns it: so everything goes through
a directory descriptor that was checked to be the tmpfs, and no link is ever followed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pydantic import BaseModel, ConfigDict, Field

from greenroom.core.errors import CorpseError, UsageError
from greenroom.core.paths import StatePaths
from greenroom.core.sealed import VARIABLE
from greenroom.core.slotfile import SlotRecord
from greenroom.gate import syscalls

ENV_FILE = "env"
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}")
_MOST_DEEP = 8
_PAGE = 4096
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Personal(BaseModel):
    """What a claim brings along. ``files`` maps a relative path to content.

    Each of ``env`` and ``secrets`` becomes a variable of every command; a secret is also a file
    ``/run/greenroom/secrets/NAME``, a file stands at ``/run/greenroom/files/PATH``.
    """

    model_config = ConfigDict(frozen=True)

    env: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict, repr=False)
    files: dict[str, bytes] = Field(default_factory=dict, repr=False)
    git_name: str = ""
    git_email: str = ""

    def variables(self) -> dict[str, str]:
        """All variables that commands get. A secret wins over a plain one of its name."""
        identity = {}
        for role in ("AUTHOR", "COMMITTER"):
            if self.git_name:
                identity[f"GIT_{role}_NAME"] = self.git_name
            if self.git_email:
                identity[f"GIT_{role}_EMAIL"] = self.git_email
        return {**identity, **self.env, **self.secrets}


def check_personal(personal: Personal) -> None:
    """Refuse names that cannot be variables or paths. Raises UsageError; says no values."""
    for name, value in personal.variables().items():
        if not VARIABLE.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a variable; use letters, digits and _")
        if "\0" in value:
            raise UsageError(f"the value of {name} holds a NUL byte")
    for path in personal.files:
        parts = path.split("/")
        if len(parts) > _MOST_DEEP or not all(_PART.fullmatch(part) for part in parts):
            raise UsageError(
                f"{path!r} cannot name a personal file; use a relative path of letters, digits "
                "and . _ @ + -"
            )
        inside = {"/".join(parts[:end]) for end in range(1, len(parts))} & personal.files.keys()
        if inside:
            raise UsageError(f"{min(inside)!r} cannot be a personal file and hold {path!r} too")


def write_personal(paths: StatePaths, record: SlotRecord, personal: Personal) -> None:
    """Write everything, replacing what is there; the environment file comes last.

    Raises UsageError (a bad name, or more than fits), CorpseError (the tmpfs is not there).
    """
    check_personal(personal)
    with _writing(paths, record) as root:
        for name, value in personal.secrets.items():
            _put(root, ("secrets", name), value.encode(), record)
        for path, content in personal.files.items():
            _put(root, ("files", *path.split("/")), content, record)
        lines = [f"{k}={shlex.quote(v)}\n" for k, v in sorted(personal.variables().items())]
        _put(root, (ENV_FILE,), "".join(lines).encode(), record)


def write_files(paths: StatePaths, record: SlotRecord, contents: dict[str, bytes]) -> None:
    """Write files of the host's own into the folder itself. Raises as ``write_personal``."""
    with _writing(paths, record) as root:
        for name, content in contents.items():
            _put(root, (name,), content, record)


def room_needed(personal: Personal) -> int:
    """Bytes of memory that these files take, in whole pages."""
    sizes = [len(value.encode()) for value in personal.secrets.values()]
    sizes += [len(content) for content in personal.files.values()]
    sizes.append(sum(len(k) + len(shlex.quote(v)) + 2 for k, v in personal.variables().items()))
    return sum(-(-size // _PAGE) * _PAGE for size in sizes)


@contextmanager
def _writing(paths: StatePaths, record: SlotRecord) -> Iterator[int]:
    """As ``_opened``; no room left is a UsageError."""
    try:
        with _opened(paths, record) as root:
            yield root
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise UsageError(
                "the personal files are larger than the pool's limits.personal"
            ) from None
        raise


def read_secrets(paths: StatePaths, record: SlotRecord) -> dict[str, str]:
    """The secrets that a claim was given, by name. Raises OSError; none where there are none."""
    found: dict[str, str] = {}
    try:
        with _opened(paths, record) as root:
            folder = os.open("secrets", _DIRECTORY, dir_fd=root)
            try:
                for name in os.listdir(folder):  # noqa: PTH208 - of a descriptor
                    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                    with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as stream:
                        found[name] = stream.read().decode(errors="replace")
            finally:
                os.close(folder)
    except (FileNotFoundError, CorpseError):
        pass  # no secrets, or no container any more
    return found


@contextmanager
def _opened(paths: StatePaths, record: SlotRecord) -> Iterator[int]:
    """The tmpfs's own folder, checked. Raises CorpseError, OSError."""
    parent = os.open(paths.personal_root, _DIRECTORY)
    try:
        fd = os.open(record.container, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        raise CorpseError(f"container {record.container} has no personal folder") from None
    finally:
        os.close(parent)
    try:
        if syscalls.filesystem_magic(fd) != syscalls.TMPFS_MAGIC:
            raise CorpseError(f"the personal folder of {record.container} is not mounted")
        yield fd
    finally:
        os.close(fd)


def _put(root: int, parts: tuple[str, ...], content: bytes, record: SlotRecord) -> None:
    folder = _folder(root, parts[:-1], record)
    try:
        fresh = f".{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(fresh, flags, 0o400, dir_fd=folder)
        try:
            with os.fdopen(fd, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fchown(fd, record.uid, record.gid)
            os.rename(fresh, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(fresh, dir_fd=folder)
            raise
    finally:
        os.close(folder)


def _folder(root: int, parts: tuple[str, ...], record: SlotRecord) -> int:
    """A new descriptor of a folder below ``root``, made with those on the way. Raises OSError."""
    with ExitStack() as opened:
        folder = os.dup(root)
        opened.callback(os.close, folder)
        for part in parts:
            try:
                os.mkdir(part, 0o700, dir_fd=folder)
                made = True
            except FileExistsError:
                made = False
            folder = os.open(part, _DIRECTORY, dir_fd=folder)
            opened.callback(os.close, folder)
            if made:
                os.fchown(folder, record.uid, record.gid)
        return os.dup(folder)
