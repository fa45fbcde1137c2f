"""The state folder's tree, and the unprivileged user that the gate runs as."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths

GATE_USER = "greenroom-gate"
LOCKS = Path("/run") if os.geteuid() == 0 else Path("/var/lock")
"""Where locks that all installs share stand. Root's not where others may write: they could hold
them for ever, or plant files of theirs."""


def ensure_gate_user() -> pwd.struct_passwd:
    """The gate's user, made when root can make it, else ``nobody``. Raises UsageError."""
    try:
        return pwd.getpwnam(GATE_USER)
    except KeyError:
        pass
    if os.geteuid() == 0 and shutil.which("useradd") is not None:
        subprocess.run(
            [
                *("useradd", "--system", "--user-group", "--no-create-home"),
                *("--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", GATE_USER),
            ],
            check=False,
            capture_output=True,
        )
    for name in (GATE_USER, "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise UsageError(f"the gate needs an unprivileged user: create {GATE_USER}")


def ensure_folders(paths: StatePaths, gate_gid: int) -> None:
    """Make the tree with its modes: the gate's group may read leases and mirrors.

    ``run`` is sticky: the gate can make its own socket there, but not touch those of root.
    Raises OSError, and UsageError when the gate's user could not get to the state folder.
    """
    paths.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder in (paths.root, *paths.root.parents):
        if not folder.stat().st_mode & 0o001:
            raise UsageError(
                f"the state folder {paths.root} is out of reach for the gate's unprivileged "
                f"user, as {folder} is closed to others: name another in GREENROOM_STATE, or run "
                f"`chmod o+x {folder}`"
            )
    for folder, mode, group in (
        (paths.run, 0o1775, gate_gid),
        (paths.slots, 0o750, gate_gid),
        (paths.mirrors, 0o750, gate_gid),
        (paths.personal_root, 0o711, -1),
        (paths.logs, 0o750, -1),
        (paths.claims, 0o700, -1),
        (paths.saved, 0o700, -1),
        (paths.pools, 0o700, -1),
        (paths.evidence, 0o700, -1),
    ):
        folder.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(folder, -1, group)
        folder.chmod(mode)
