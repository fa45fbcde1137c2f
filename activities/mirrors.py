"""Bare mirrors of the pools' repositories: fetched by the host, served by the gate.

Runs the ``git`` program with argument lists, without prompts, with a time-out, over an allow-list
of transports. What a mirror holds is never run or checked out on the host.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from activities.registries import without_credentials
from activities.slotfiles import gate_gid
from greenroom.core.errors import PreparationError, StepTimeoutError
from greenroom.core.names import mirror_key
from greenroom.core.paths import StatePaths

_FETCH_TIMEOUT_S = 840.0
_READ_TIMEOUT_S = 120.0
_REMOTE_HEAD = "refs/greenroom/remote-head"
_TRANSPORTS = "file:https:http:ssh:git"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_KEPT_VARIABLES = re.compile(r"GIT_(SSH|SSL|ASKPASS|PROXY)")


@dataclass(frozen=True)
class Resolved:
    """A commit and the full name of the ref that led to it (``HEAD`` when it has no name)."""

    commit: str
    ref: str


class Mirror:
    """The mirror of one repository."""

    def __init__(self, paths: StatePaths, url: str, tick: Callable[[], None]) -> None:
        self.key = mirror_key(url)
        self.url = url
        self.shown = without_credentials(url)
        self.path = paths.mirror(self.key)
        self._paths = paths
        self._tick = tick

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the mirror's lock: one fetch at a time. Raises OSError."""
        self._paths.mirrors.mkdir(mode=0o750, parents=True, exist_ok=True)
        if (gid := gate_gid()) is not None:
            os.chown(self._paths.mirrors, -1, gid)
        lock = self._paths.mirrors / f".{self.key}.lock"
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._tick()
                    time.sleep(0.1)  # another process has it; there is no event to wait for
            yield
        finally:
            os.close(fd)

    def fetch(self) -> None:
        """Bring branches, tags and HEAD up to date. Raises PreparationError (step ``source``)."""
        self._ensure()
        refs = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", f"+HEAD:{_REMOTE_HEAD}"]
        options = ["--prune", "--no-tags", "--force", "--quiet", "--no-write-fetch-head"]
        self._git(["fetch", *options, "--", self.url, *refs], _FETCH_TIMEOUT_S)
        listed = self._git(["ls-remote", "--symref", "--", self.url, "HEAD"], _READ_TIMEOUT_S)
        branch = re.match(r"ref: (refs/heads/\S+)\tHEAD", listed)
        if branch:
            self._git(["symbolic-ref", "HEAD", branch[1]], _READ_TIMEOUT_S)
        else:  # the remote's HEAD is detached
            self._git(["update-ref", "--no-deref", "HEAD", _REMOTE_HEAD], _READ_TIMEOUT_S)

    def resolve(self, ref: str) -> Resolved:
        """The commit of a branch, a tag, a full commit id or HEAD.

        Raises PreparationError (step ``source``) that says what there is.
        """
        if ref == "HEAD":
            head = (self.path / "HEAD").read_text().strip()
            name = head.removeprefix("ref: ") if head.startswith("ref: ") else "HEAD"
            return Resolved(self._commit_of("HEAD") or self._no_ref(ref), name)
        plain = ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
        for full in (f"refs/heads/{plain}", f"refs/tags/{plain}"):
            commit = self._commit_of(full)
            if commit:
                return Resolved(commit, full)
        commit = self._commit_of(ref) if _COMMIT.fullmatch(ref) else ""
        return Resolved(commit or self._no_ref(ref), "HEAD")

    def pin(self, pool: str, commit: str) -> None:
        """Keep a commit fetchable for a pool, whatever happens to its branch."""
        self._git(["update-ref", f"refs/greenroom/{pool}", commit], _READ_TIMEOUT_S)

    def files(self, commit: str) -> dict[str, str]:
        """Path to blob id of every file of a commit (symbolic links and submodules left out)."""
        listed = self._git(["ls-tree", "-r", "-z", commit], _READ_TIMEOUT_S)
        found = {}
        for entry in listed.split("\0"):
            head, tab, name = entry.partition("\t")
            if tab and head.startswith("100"):
                found[name] = head.split()[2]
        return found

    def _commit_of(self, name: str) -> str:
        asked = ["rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
        return self._git(asked, _READ_TIMEOUT_S, may_fail=True).strip()

    def _no_ref(self, ref: str) -> str:
        shown = "--format=%(refname:short)"
        listed = self._git(["for-each-ref", shown, "refs/heads", "refs/tags"], _READ_TIMEOUT_S)
        names = listed.split()
        there = ", ".join(names[:12]) + (" …" if len(names) > 12 else "")
        raise PreparationError(
            f"{self.shown} has no branch or tag {ref!r}; it has: {there or 'none'}", step="source"
        )

    def _ensure(self) -> None:
        if not (self.path / "HEAD").exists():
            self.path.mkdir(mode=0o2750, exist_ok=True)
            if (gid := gate_gid()) is not None:
                os.chown(self.path, -1, gid)
                self.path.chmod(0o2750)
            self._git(
                ["init", "--bare", "--quiet", "--shared=0640", "--template=", "."], _READ_TIMEOUT_S
            )
            self._git(["config", "gc.autoDetach", "false"], _READ_TIMEOUT_S)
        if _is_local(self.url):
            self._trust_local()

    def _trust_local(self) -> None:
        """Let git read a repository of the host that belongs to somebody else.

        Whoever wrote the pool file named it; the mirror only copies objects out of it.
        """
        place = self.url.removeprefix("file://")
        inner = os.path.join(place, ".git")  # noqa: PTH118  (kept as written, not normalised)
        text = "[include]\n\tpath = ~/.gitconfig\n[safe]\n"
        text += "".join(f"\tdirectory = {_quoted(each)}\n" for each in (place, inner))
        self._trust.write_text(text)

    @property
    def _trust(self) -> Path:
        return self._paths.mirrors / f"{self.key}.gitconfig"

    def _git(self, arguments: list[str], timeout_s: float, *, may_fail: bool = False) -> str:
        command = ["git", "-c", f"safe.directory={self.path}", *arguments]
        process = subprocess.Popen(
            command,
            cwd=self.path,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = self._communicate(process, arguments[0], timeout_s)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        if process.returncode != 0 and not may_fail:
            raise self._failed(arguments[0], err.decode(errors="replace"))
        return out.decode(errors="surrogateescape") if process.returncode == 0 else ""

    def _communicate(
        self, process: subprocess.Popen[bytes], what: str, timeout_s: float
    ) -> tuple[bytes, bytes]:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return process.communicate(timeout=1.0)
            except subprocess.TimeoutExpired:
                self._tick()
                if time.monotonic() > deadline:
                    raise StepTimeoutError(
                        f"git {what} of {self.shown} took longer than {timeout_s:.0f} s",
                        step="source",
                    ) from None

    def _environment(self) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("GIT_") or _KEPT_VARIABLES.match(key)
        }
        fixed = {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": _TRANSPORTS,
            "GIT_NO_REPLACE_OBJECTS": "1",
            "LC_ALL": "C.UTF-8",
        }
        kept.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=20")
        if self._trust.exists():
            fixed["GIT_CONFIG_GLOBAL"] = str(self._trust)
        return {**kept, **fixed}

    def _failed(self, what: str, said: str) -> PreparationError:
        tail = said.replace(self.url, self.shown)[-4000:].strip()
        return PreparationError(
            f"{self.shown} cannot be read ({_why(said)}): git {what} failed; check the pool's "
            "`repo:` and this host's access to it",
            step="source",
            tail=tail,
        )


def _why(said: str) -> str:
    text = said.lower()
    for sign, meaning in (
        ("could not resolve host", "no such host name"),
        ("name or service not known", "no such host name"),
        ("does not appear to be a git repository", "no git repository there"),
        ("repository not found", "no such repository"),
        ("not found", "no such repository"),
        ("does not exist", "no such repository"),
        ("couldn't find remote ref head", "the repository is empty"),
        ("could not read username", "access denied"),
        ("authentication failed", "access denied"),
        ("permission denied", "access denied"),
        ("host key verification failed", "the host's key is not known to ssh"),
        ("no space left", "no space left on this host"),
        ("not allowed", "that transport is not allowed"),
    ):
        if sign in text:
            return meaning
    lines = [line for line in said.strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no reason given"


def _is_local(url: str) -> bool:
    return url.startswith(("/", "./", "../", "file://"))


def _quoted(text: str) -> str:
    """A value in git's configuration syntax."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
