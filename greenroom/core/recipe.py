"""Chooses how to install a repository's dependencies from the files that it has."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

LOCKFILES = (
    "uv.lock",
    "requirements.txt",
    "requirements-dev.txt",
    "dev-requirements.txt",
    "package-lock.json",
    "npm-shrinkwrap.json",
)
"""Well-known names of files that pin dependencies."""
MANIFESTS = ("pyproject.toml", "setup.py", "setup.cfg", "package.json", ".npmrc", ".python-version")
"""Well-known names of files that dependencies are declared in; they decide as well."""
_REQUIREMENTS = re.compile(r"^(dev-|test-)?requirements([-_.](dev|test|tests))?\.txt$")


@dataclass(frozen=True)
class Recipe:
    """Lines that install, quick offline lines that bring up to date, and why these."""

    install: tuple[str, ...]
    sync: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class _Part:
    install: tuple[str, ...]
    sync: tuple[str, ...]
    why: str


def choose(files: Collection[str]) -> Recipe:
    """The recipe for a repository that has ``files`` (paths from its root). None fit: no lines."""
    present = set(files)
    parts = [part for part in (_python(present), _node(present)) if part is not None]
    if not parts:
        return Recipe((), (), "no file that declares dependencies was found: nothing to install")
    return Recipe(
        install=tuple(line for part in parts for line in part.install),
        sync=tuple(line for part in parts for line in part.sync),
        why="; ".join(part.why for part in parts),
    )


def dependency_files(
    files: Collection[str], lockfiles: tuple[str, ...] | None, inputs: tuple[str, ...]
) -> tuple[str, ...]:
    """Those of ``files`` that decide the dependencies, sorted.

    ``lockfiles`` None means the well-known names; ``inputs`` are globs (``*`` within a folder,
    ``**`` over folders) to add.
    """
    present = set(files)
    if lockfiles is None:
        chosen = {name for name in (*LOCKFILES, *MANIFESTS) if name in present}
        chosen |= {name for name in present if _REQUIREMENTS.match(name)}
    else:
        chosen = {name for name in present if _matches_any(name, lockfiles)}
        chosen |= {name for name in MANIFESTS if name in present}
    return tuple(sorted(chosen | {name for name in present if _matches_any(name, inputs)}))


def _python(present: set[str]) -> _Part | None:
    if "uv.lock" in present:
        line = "uv sync --locked"
        return _Part((line,), (f"{line} --offline",), "uv.lock is there: uv sync")
    requirements = sorted(name for name in present if _REQUIREMENTS.match(name))
    if requirements:
        listed = " ".join(f"-r {name}" for name in requirements)
        return _Part(
            ("python3 -m venv .venv", f".venv/bin/python -m pip install {listed}"),
            (f".venv/bin/python -m pip install --no-index {listed}",),
            f"{', '.join(requirements)}: pip into .venv",
        )
    if present & {"pyproject.toml", "setup.py"}:
        which = "pyproject.toml" if "pyproject.toml" in present else "setup.py"
        install = ".venv/bin/python -m pip install"
        return _Part(
            ("python3 -m venv .venv", f"{install} -e ."),
            (f"{install} --no-index --no-build-isolation -e .",),
            f"{which} without a lock file: the project itself by pip into .venv",
        )
    return None


def _node(present: set[str]) -> _Part | None:
    quiet = "--no-audit --no-fund"
    lock = present & {"package-lock.json", "npm-shrinkwrap.json"}
    if lock:
        return _Part(
            (f"npm ci {quiet}",), (f"npm ci {quiet} --offline",), f"{min(lock)} is there: npm ci"
        )
    if "package.json" in present:
        return _Part(
            (f"npm install {quiet}",),
            (f"npm install {quiet} --offline",),
            "package.json without a lock file: npm install",
        )
    return None


def _matches_any(name: str, globs: tuple[str, ...]) -> bool:
    return any(_compiled(glob).fullmatch(name) for glob in globs)


@lru_cache(maxsize=256)
def _compiled(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression: ``**/`` any folders, ``**`` anything, ``*`` and ``?``."""
    out, rest = "", glob.removeprefix("./")
    for token in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", rest):
        known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        out += known.get(token, re.escape(token))
    return re.compile(out)
