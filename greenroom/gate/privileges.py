"""Giving up root: the gate reads what containers send, so it does not keep it."""

from __future__ import annotations

# Read now: the checkout or the interpreter may lie where the gate's user cannot go.
import encodings.idna  # noqa: F401
import os
import stringprep  # noqa: F401

from greenroom.gate.opener import GateUser


def drop(user: GateUser) -> None:
    """Become ``user`` for good when started as root; otherwise nothing. Raises OSError."""
    if os.geteuid() != 0:
        return
    os.chdir("/")
    os.setgroups([])
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    os.umask(0o027)
