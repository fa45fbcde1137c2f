"""The few system calls that Python 3.11 lacks. Standard library only: the opener runs as root."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS = 0x0002_0000
CLONE_NEWNET = 0x4000_0000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
TMPFS_MAGIC = 0x0102_1994
NSFS_MAGIC = 0x6E73_6673


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def setns(fd: int, kind: int) -> None:
    """Move this thread into the namespace behind ``fd``. Raises OSError."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def mount_tmpfs(target: str, flags: int, options: str) -> None:
    """Mount a fresh tmpfs on ``target``. Raises OSError."""
    result = _libc.mount(
        b"tmpfs", os.fsencode(target), b"tmpfs", ctypes.c_ulong(flags), options.encode("ascii")
    )
    _check(result, f"mount {target}")


def umount(target: str, flags: int) -> None:
    """Unmount ``target``. Raises OSError."""
    _check(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), f"umount {target}")


def filesystem_magic(fd: int) -> int:
    """The ``f_type`` of the file system that holds ``fd``. Raises OSError."""
    # struct statfs is 120 bytes on 64-bit Linux and begins with a long f_type.
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.fstatfs(ctypes.c_int(fd), buffer), "fstatfs")
    return ctypes.c_long.from_buffer(buffer).value
