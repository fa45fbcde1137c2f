"""The parent of the base image, and the mirror that it is filled from.

Pulled where that is possible; else the same thing is made with debootstrap from the Debian
mirror that the host itself uses.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from greenroom.core.errors import EngineError
from greenroom.services import host_packages
from greenroom.services.docker_http import DockerHttp
from greenroom.services.progress import Report

SUITE = "bookworm"
PULLED = f"debian:{SUITE}-slim"
MADE = f"greenroom/debian:{SUITE}-slim"
# What Debian's own slim images leave out.
_SLIM = ("usr/share/doc", "usr/share/info", "usr/share/locale", "usr/share/man")
_EMPTIED = ("var/cache/apt", "var/lib/apt/lists", "var/log")


@dataclass(frozen=True)
class Mirrors:
    """Base addresses of Debian mirrors; empty where the host names none."""

    main: str
    security: str


def host_mirrors(environ_mirror: str = "") -> Mirrors:
    """The mirrors in the host's own apt configuration; ``environ_mirror`` replaces the main one."""
    targets = ""
    if shutil.which("apt-get") is not None:
        targets = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI) $(COMPONENT)"],
            check=False,
            capture_output=True,
            text=True,
        ).stdout
    found = parse_targets(targets)
    return Mirrors(environ_mirror or found.main, found.security)


def parse_targets(text: str) -> Mirrors:
    """Mirrors from lines of ``release uri component``; those of other releases do not count."""
    main = security = ""
    for line in text.splitlines():
        release, _, rest = line.partition(" ")
        uri, _, component = rest.partition(" ")
        if component.strip() != "main":
            continue
        if release == SUITE and not main:
            main = uri.rstrip("/")
        elif release in {f"{SUITE}-security", f"{SUITE}/updates"} and not security:
            security = uri.rstrip("/")
    return Mirrors(main, security)


def ensure_parent(docker: DockerHttp, mirrors: Mirrors, report: Report) -> str:
    """The name of a local image with Debian's slim content. Raises EngineError."""
    for name in (PULLED, MADE):
        if docker.image_id(name) is not None:
            return name
    report("base image", f"pulling {PULLED}")
    try:
        for _ in docker.stream(
            "/images/create", {"fromImage": "debian", "tag": f"{SUITE}-slim"}, timeout_s=20.0
        ):
            pass
    except EngineError as error:
        report("base image", f"cannot pull: {error.message}")
        _make(docker, mirrors, report)
        return MADE
    return PULLED


def _make(docker: DockerHttp, mirrors: Mirrors, report: Report) -> None:
    if not mirrors.main:
        raise EngineError(
            f"{PULLED} can neither be pulled nor made, as apt has no Debian {SUITE} mirror on "
            "this machine: name one in GREENROOM_DEBIAN_MIRROR"
        )
    if shutil.which("debootstrap") is None:
        if not host_packages.can_install():
            raise EngineError(f"{PULLED} cannot be pulled; install debootstrap to make it")
        host_packages.install("debootstrap", report)
    report("base image", f"making {MADE} with debootstrap")
    with tempfile.TemporaryDirectory(prefix="greenroom-debootstrap-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        _debootstrap(root, mirrors.main)
        _slim_down(root)
        with tempfile.TemporaryFile(dir=folder) as packed:
            with tarfile.open(fileobj=packed, mode="w") as tar:
                tar.add(root, arcname=".")
            packed.seek(0)
            repository, _, tag = MADE.partition(":")
            query = {"fromSrc": "-", "repo": repository, "tag": tag}
            for _ in docker.stream("/images/create", query, chunks(packed)):
                pass


def _debootstrap(root: Path, mirror: str) -> None:
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", SUITE, str(root), mirror],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if line.startswith("E:")]
        raise EngineError(f"debootstrap failed: {(lines or ['no reason given'])[0]}")


def _slim_down(root: Path) -> None:
    for name in (*_SLIM, *_EMPTIED):
        for path in (root / name).rglob("*"):
            if path.name != "copyright" and (path.is_symlink() or not path.is_dir()):
                path.unlink()
    rules = root / "etc" / "dpkg" / "dpkg.cfg.d" / "greenroom-slim"
    rules.write_text(
        "".join(f"path-exclude /{name}/*\n" for name in _SLIM)
        + "path-include /usr/share/doc/*/copyright\n"
    )


def chunks(source: IO[bytes]) -> Iterator[bytes]:
    """The rest of a file in pieces of 1 MiB."""
    while piece := source.read(1 << 20):
        yield piece
