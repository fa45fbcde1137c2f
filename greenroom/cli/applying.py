"""Brings saved work into a clone: refs from its bundle, changes from its patch.

The work is somebody else's. Git gets it as data: no hook runs, nothing configures itself by it,
objects are checked, and `git apply` itself refuses paths that lead out of the work tree.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from greenroom.core.errors import UsageError

_BUNDLE, _PATCH = "work.bundle", "work.patch"
_SAFE = (
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "protocol.allow=never",
    "-c", "protocol.file.allow=always", "-c", "fetch.fsckObjects=true",
    "-c", "fetch.recurseSubmodules=false", "-c", "submodule.recurse=false", "-c", "gc.auto=0",
    "-c", "maintenance.auto=false",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What one claim left. ``base`` is the commit that it began at, ``folder`` has its files."""

    claim_id: str
    base: str
    folder: Path


@dataclass(frozen=True)
class Applied:
    """The refs that were fetched, and whether the work tree has changed."""

    refs: tuple[str, ...]
    changed: bool


def unpack(archive: Path, folder: Path) -> None:
    """Write the bundle and the patch of an export into ``folder``, as data. Raises OSError."""
    with tarfile.open(archive) as members:
        for member in members:
            stream = members.extractfile(member) if member.isreg() else None
            if stream is not None and member.name in {_BUNDLE, _PATCH}:
                with (folder / member.name).open("xb") as target:
                    shutil.copyfileobj(stream, target)


def apply_work(work: Work, directory: Path) -> Applied:
    """Fetch the bundle's refs and apply the patch to index and work tree.

    Raises UsageError, with what to do: no clone there, one with changes, one without the commit
    that the work began at, or a patch that does not fit; the work tree is then as it was.
    """
    git = _Git(_top_of(directory))
    if git.run("status", "--porcelain"):
        raise UsageError(f"{git.top} has changes of its own: commit or stash them first")
    if not git.succeeds("cat-file", "-e", f"{work.base}^{{commit}}"):
        raise UsageError(
            f"{git.top} does not have commit {work.base[:12]}, at which the work began: "
            "fetch it first (git fetch origin)"
        )
    bundle, patch = work.folder / _BUNDLE, work.folder / _PATCH
    refs = _fetch(git, bundle, work.claim_id) if bundle.exists() else ()
    changed = patch.exists() and patch.stat().st_size > 0
    if changed:
        _apply(git, patch, refs)
    return Applied(refs, changed)


def _fetch(git: _Git, bundle: Path, claim_id: str) -> tuple[str, ...]:
    """Fetch every ref of the bundle below ``refs/greenroom/CLAIM``."""
    below = f"refs/greenroom/{re.sub(r'[^A-Za-z0-9_+=-]', '_', claim_id)}"
    heads = git.run("bundle", "list-heads", str(bundle))
    specs = [f"+refs/heads/*:{below}/heads/*"]
    specs += [
        f"+{ref}:{below}/{ref.rpartition('/')[2]}"
        for ref in ("refs/greenroom/saved", "refs/stash")
        if re.search(rf"^\S+ {ref}$", heads, re.MULTILINE)
    ]
    git.run("fetch", "--quiet", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head",
            str(bundle), *specs)  # fmt: skip
    return tuple(git.run("for-each-ref", "--format=%(refname)", below).split())


def _apply(git: _Git, patch: Path, refs: tuple[str, ...]) -> None:
    options = ("apply", "--index", "--whitespace=nowarn")
    if not git.succeeds(*options, "--check", str(patch)):
        saved = next((ref for ref in refs if ref.endswith("/saved")), "")
        other = f", or merge its commits: git merge {saved}" if saved else ""
        raise UsageError(
            f"the changes do not fit what is checked out in {git.top}: check out the commit "
            f"that the work began at{other}"
        )
    git.run(*options, str(patch))


def _top_of(directory: Path) -> Path:
    done = _git(directory, "rev-parse", "--show-toplevel")
    if done.returncode != 0:
        raise UsageError(
            f"{directory} is not in the work tree of a git repository: {done.stderr.strip()}"
        )
    return Path(done.stdout.rstrip("\n"))


@dataclass(frozen=True)
class _Git:
    """Git in one clone, closed against what it works on."""

    top: Path

    def run(self, *arguments: str) -> str:
        """Its output. Raises UsageError with what git says."""
        done = _git(self.top, *arguments)
        if done.returncode != 0:
            raise UsageError(f"git {arguments[0]}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def succeeds(self, *arguments: str) -> bool:
        """Whether it ends with 0."""
        return _git(self.top, *arguments).returncode == 0


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", *_SAFE, *arguments],
            cwd=folder,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
                "LC_ALL": "C",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise UsageError(f"git cannot run in {folder}: {error.strerror}") from error
