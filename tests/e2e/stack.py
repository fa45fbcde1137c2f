"""A whole Greenroom of the test's own: state folder, services, one pool of a small repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from greenroom.core.names import LABEL_INSTALL
from greenroom.core.paths import StatePaths
from tests.chaos import events as ev
from tests.chaos.recorder import Recorder

PROGRAM = str(Path(sys.executable).parent / "greenroom")
GIT = ("git", "-c", "user.name=Tess Tester", "-c", "user.email=tess@example.org")
POOL = "demo"


@dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def out(self) -> str:
        return self.stdout.decode()

    @property
    def err(self) -> str:
        return self.stderr.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Stack:
    """One install. ``folder`` holds the repository and the pool file, ``paths`` the state."""

    folder: Path
    paths: StatePaths

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "GREENROOM_STATE": str(self.paths.root)}

    @property
    def repo(self) -> Path:
        return self.folder / "repo"

    @property
    def pool_file(self) -> Path:
        return self.folder / "pool.yaml"

    @property
    def install(self) -> str:
        return self.paths.install_id.read_text().strip()

    def make_repo(self) -> None:
        self.repo.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        (self.repo / "main.py").write_text("print('hello from the repository')\n")
        self.commit("first")
        self.pool_file.write_text(
            f"name: {POOL}\n"
            "repo: ./repo\n"
            'install: ["true"]\n'
            'build: ["echo built > built.txt"]\n'
            'verify: ["python3 main.py"]\n'
            "size: {min: 2, max: 8}\n"
            "lease: {warn: 1m}\n"
            "limits: {cpus: 1, memory: 256m, pids: 128}\n"
        )

    def git(self, *words: str) -> None:
        subprocess.run([*GIT, *words], cwd=self.repo, check=True, capture_output=True)

    def commit(self, text: str) -> str:
        (self.repo / "text").write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", text)
        head = subprocess.run(
            [*GIT, "rev-parse", "HEAD"], cwd=self.repo, check=True, capture_output=True
        )
        return head.stdout.decode().strip()

    def cli(self, *line: str, stdin: bytes = b"") -> Ended:
        """Run one command line to its end."""
        done = subprocess.run(
            [PROGRAM, *line], input=stdin, capture_output=True, env=self.environ, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def ok(self, *line: str, stdin: bytes = b"") -> Ended:
        """As ``cli``, for what must succeed."""
        done = self.cli(*line, stdin=stdin)
        assert done.code == 0, f"{line}: {done.code}\n{done.out}\n{done.err}"
        return done

    def start(self, *line: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [PROGRAM, *line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("status", POOL, "--json").json
        return found

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status that is as wanted; the test's own time-out is the limit."""
        while True:
            status = self.status()
            if wanted(status):
                return status
            time.sleep(0.1)

    def full(self) -> dict[str, Any]:
        """At target, with nothing claimed and nothing going on."""
        return self.until(
            lambda s: (
                s["counts"]["ready"] == s["target"] == len(s["containers"])
                and s["refresh"]["state"] == "idle"
            )
        )

    def service(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("services", "--json").json[name]
        return found

    def containers(self, kind: str = "") -> list[str]:
        """Names of this install's containers that Docker has, running or not."""
        filters = ["--filter", f"label={LABEL_INSTALL}={self.install}"]
        if kind:
            filters += ["--filter", f"label=greenroom.kind={kind}"]
        return docker("ps", "-a", "--format", "{{.Names}}", *filters)

    def running(self) -> list[str]:
        """Names of this install's containers that run."""
        mine = f"label={LABEL_INSTALL}={self.install}"
        return docker("ps", "--format", "{{.Names}}", "--filter", mine)

    def workflow_events(self) -> list[ev.Event]:
        """When the workflow of each container and snapshot opened, and when it closed."""
        decided = json.loads(self.paths.up.read_text())
        told = subprocess.run(
            [
                str(Path(PROGRAM).parent / "temporal"), "workflow", "list", "--output", "json",
                "--address", decided["temporal_address"], "--limit", "2000",
                "--namespace", decided["temporal_namespace"],
            ],
            capture_output=True, check=True,
        )  # fmt: skip
        events: list[ev.Event] = []
        for found in json.loads(told.stdout):
            owner = found["execution"]["workflowId"].rpartition("/")[2]
            events.append(ev.WorkflowOpen(_seconds(found["startTime"]), owner))
            if found.get("closeTime"):
                events.append(ev.WorkflowClosed(_seconds(found["closeTime"]), owner))
        return events

    def processes(self) -> list[str]:
        """Command lines of processes that have this state folder in their environment."""
        mark = f"GREENROOM_STATE={self.paths.root}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().decode().replace("\0", " "))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
        return found


@dataclass
class Watched:
    """A stack whose claims are recorded for the invariant checker."""

    stack: Stack
    recorder: Recorder

    def claim(self, *options: str) -> dict[str, Any]:
        """A claim that must be granted."""
        lease: dict[str, Any] = self.stack.ok("claim", POOL, "--json", *options).json
        self.recorder.record(
            ev.Granted(
                time.time(), POOL, lease["claim_id"], lease["container"], lease["token"],
                lease["expires_at"],
            )
        )  # fmt: skip
        return lease

    def exec(self, lease: dict[str, Any], *command: str, stdin: bytes = b"") -> Ended:
        """A command under a lease."""
        began = time.time()
        options = ("-i",) if stdin else ()
        done = self.stack.cli("exec", *options, lease["claim_id"], "--", *command, stdin=stdin)
        if done.code < 120:
            self.recorder.record(
                ev.ExecOk(began, lease["claim_id"], lease["container"], lease["token"])
            )
        return done

    def release(self, lease: dict[str, Any], *options: str) -> dict[str, Any]:
        """A release that must succeed."""
        done: dict[str, Any] = self.stack.ok("release", lease["claim_id"], "--json", *options).json
        self.recorder.record(
            ev.Released(
                time.time(), lease["claim_id"], lease["container"], lease["token"],
                discard="--discard" in options,
            ),
            ev.Saved(time.time(), lease["claim_id"], lease["container"], done["saved"]["state"]),
        )  # fmt: skip
        return done


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def docker(*words: str) -> list[str]:
    """The lines of a docker command's output."""
    done = subprocess.run(["docker", *words], capture_output=True, check=True)
    return done.stdout.decode().split()


def remove_images(references: Sequence[str]) -> None:
    """Remove images; those in use or gone are left."""
    if references:
        subprocess.run(["docker", "rmi", "-f", *references], capture_output=True, check=False)
