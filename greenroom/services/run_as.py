"""``python -m greenroom.services.run_as USER MODULE:FUNCTION``: load as root, run as USER.

The program's own files may stand where that user cannot read them (a checkout in /root), so
everything is imported before the rights are dropped for good.
"""

from __future__ import annotations

import ctypes
import encodings.idna  # noqa: F401 - loaded on first use of a host name, when it is too late
import importlib
import os
import pwd
import sys
from collections.abc import Callable

_PR_SET_NO_NEW_PRIVS = 38


def drop_to(name: str) -> None:
    """Become user ``name`` for ever, with no capability and no way to gain one.

    Raises KeyError for an unknown user, OSError when the kernel refuses.
    """
    entry = pwd.getpwnam(name)
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")


def main(arguments: list[str]) -> None:
    """Run the function; see the module. Raises what importing and dropping raise."""
    user, target = arguments
    module, _, name = target.partition(":")
    function: Callable[[], None] = getattr(importlib.import_module(module), name)
    importlib.import_module("greenroom.services.settings")  # every service reads them when it runs
    if os.geteuid() == 0:
        drop_to(user)
    function()


if __name__ == "__main__":
    main(sys.argv[1:])
