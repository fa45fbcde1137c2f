"""Personal tmpfs mounts: made and removed by the opener without following any link.

Standard library only. The folder ``personal/`` is root's and nobody else's to write, and every
step below it goes through a directory descriptor, so that a planted link changes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from greenroom.gate import syscalls

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
MAX_SIZE_MIB = 1024


class UnsafePathError(Exception):
    """Something on the way is not what root put there."""


@dataclass(frozen=True)
class TmpfsSpec:
    """Owner and size of one personal tmpfs."""

    uid: int
    gid: int
    size_mib: int

    def options(self) -> str:
        """The mount options; a few thousand inodes are plenty for files of a person."""
        return f"size={self.size_mib}m,nr_inodes=8k,mode=0700,uid={self.uid},gid={self.gid}"


def ensure_root(root: Path) -> None:
    """Make ``personal/`` as a root-owned 0711 folder. Raises OSError, UnsafePathError."""
    root.mkdir(mode=0o711, exist_ok=True)
    with _opened_root(root) as fd:
        os.fchmod(fd, 0o711)


@contextmanager
def _opened_root(root: Path) -> Iterator[int]:
    fd = os.open(root, _DIRECTORY)
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UnsafePathError(f"{root} must belong to root and be writable by root alone")
        yield fd
    finally:
        os.close(fd)


def _is_mounted(parent: int, name: str) -> bool:
    """Whether a tmpfs of its own is mounted on ``name``; never follows a link."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    except NotADirectoryError as error:
        raise UnsafePathError(f"{name} is not a folder") from error
    try:
        if os.fstat(fd).st_dev == os.fstat(parent).st_dev:
            return False
        return syscalls.filesystem_magic(fd) == syscalls.TMPFS_MAGIC
    finally:
        os.close(fd)


def mount(root: Path, name: str, spec: TmpfsSpec) -> None:
    """Mount one tmpfs at ``root/name``; one that is there already is kept.

    Raises OSError, and UnsafePathError when a link or a foreign folder is in the way or when what
    stands there afterwards is not a tmpfs of the wanted owner.
    """
    ensure_root(root)
    with _opened_root(root) as parent:
        with suppress(FileExistsError):  # idempotent: what is there gets checked next
            os.mkdir(name, 0o700, dir_fd=parent)
        if not _is_mounted(parent, name):
            target = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                # The descriptor's own link names exactly the folder that was opened.
                syscalls.mount_tmpfs(f"/proc/self/fd/{target}", _FLAGS, spec.options())
            finally:
                os.close(target)
        if not _is_mounted(parent, name):
            raise UnsafePathError(f"{root / name} is not a tmpfs after mounting it")
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if (status.st_uid, status.st_gid) != (spec.uid, spec.gid):
            raise UnsafePathError(f"{root / name} belongs to {status.st_uid}:{status.st_gid}")


def unmount(root: Path, name: str) -> None:
    """Unmount and remove ``root/name``; nothing there is success.

    Raises OSError, UnsafePathError.
    """
    if not root.exists():
        return
    with _opened_root(root) as parent:
        try:
            while _is_mounted(parent, name):
                syscalls.umount(
                    f"/proc/self/fd/{parent}/{name}",
                    syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW,
                )
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            return
