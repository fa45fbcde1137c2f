"""Fill the virtual environment that runs this file from the lock file, with uv.

Run by make as a plain script, before anything is installed: standard library only, and no import
of greenroom. uv does not read pip's configuration, so what the host says there (index, mirror,
certificates, proxy) is handed over in uv's own variables; those that are set already win.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def pip_settings(listing: str) -> dict[str, list[str]]:
    """Option names with their values, from what ``pip config list`` prints.

    Lines look like ``global.index-url='https://…'``; later ones win, as in pip.
    """
    found: dict[str, list[str]] = {}
    for line in listing.splitlines():
        name, separator, value = line.partition("=")
        if separator:
            found[name.rpartition(".")[2]] = str(ast.literal_eval(value)).split()
    return found


def uv_variables(pip: Mapping[str, list[str]], environ: Mapping[str, str]) -> dict[str, str]:
    """What uv needs in its environment to reach the same registry as pip does."""
    wanted: dict[str, str] = {}
    if index := pip.get("index-url"):
        wanted["UV_DEFAULT_INDEX"] = index[0]
    # Folders on this machine's disk are pip's business: everything locked is in the registry.
    remote = [each for each in pip.get("extra-index-url", []) if each.startswith("http")]
    if remote:
        wanted["UV_INDEX"] = " ".join(remote)
        # pip's own rule. Which file is taken is fixed by hash all the same.
        wanted["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    if hosts := pip.get("trusted-host"):
        wanted["UV_INSECURE_HOST"] = " ".join(hosts)
    if cert := pip.get("cert"):
        wanted["SSL_CERT_FILE"] = cert[0]
    if proxy := pip.get("proxy"):
        wanted["HTTPS_PROXY"] = proxy[0]
    return {name: value for name, value in wanted.items() if name not in environ}


def main(checkout: Path) -> int:
    """Returns the exit code of the first step that fails, else 0."""
    programs = Path(sys.executable).parent
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    environ = {
        **os.environ,
        **uv_variables(pip_settings(listing), os.environ),
        "VIRTUAL_ENV": str(programs.parent),
    }
    uv = [str(programs / "uv"), "pip"]
    for arguments in (
        ["sync", "--quiet", "--require-hashes", "requirements-dev.lock"],
        # The package itself, as a link to the checkout. Its build tools are in the lock.
        ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", "."],
    ):
        code = subprocess.run([*uv, *arguments], check=False, cwd=checkout, env=environ).returncode
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[2]))
