"""Installing a Debian package on the host, where set-up needs one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from greenroom.core.errors import EngineError
from greenroom.services.progress import Report

_LISTS = Path("/var/lib/apt/lists")


def can_install() -> bool:
    """Whether this is Debian or Ubuntu, and we are root."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str, report: Report) -> None:
    """Install a package without what it merely recommends.

    Raises EngineError with the last line that apt-get said.
    """
    report("packages", f"installing {package}")
    if not any(_LISTS.glob("*_Packages*")):
        _apt("update")
    try:
        _apt("install", "-y", "--no-install-recommends", package)
    except EngineError:
        _apt("update")  # the lists may be older than what the mirror still has
        _apt("install", "-y", "--no-install-recommends", package)


def _apt(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
    )
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        wrong = [line for line in lines if line.startswith("E:")] or lines[-1:] or ["no output"]
        raise EngineError(f"apt-get {' '.join(arguments)} failed: {wrong[0]}")
