"""A stack whose parts a test breaks: held installs, killed services, and what must be left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenroom.core.names import LABEL_CONTAINER, LABEL_INSTALL, LABEL_KIND
from greenroom.gate.control import GateClient, GateUnavailable
from tests.chaos import events as ev
from tests.chaos.checker import SWEPT_WITHIN_S
from tests.e2e.stack import POOL, Stack, Watched, docker

INSTALL = "[ -d .venv ] || python3 -m venv --without-pip .venv\n"
HOLD = "touch /tmp/held; while [ ! -e /tmp/go ]; do sleep 0.1; done\n"
HELD = ("test", "-e", "/tmp/held")
LET_GO = ("touch", "/tmp/go")


@dataclass
class RoughStack(Stack):
    """Its install line is a file of the repository, which can be made to wait for the test."""

    def make_repo(self) -> None:
        """The repository, and a pool file that names ``task`` as the allow-list of claims."""
        self.repo.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")
        (self.repo / "install.sh").write_text(INSTALL)
        (self.repo / ".gitignore").write_text(".venv/\n")
        self.commit("first")
        self.write_pool_file()

    def write_pool_file(self, *task: str) -> None:
        self.pool_file.write_text(
            f"name: {POOL}\n"
            "repo: ./repo\n"
            'install: ["sh install.sh"]\n'
            "lockfiles: [install.sh]\n"
            'verify: [".venv/bin/python -c pass"]\n'
            "size: {min: 2, max: 8}\n"
            f"network: {{task: [{', '.join(task)}]}}\n"
            "limits: {cpus: 1, memory: 256m, pids: 128}\n"
        )

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """As for every stack; a status that cannot be had is asked for again."""
        while True:
            done = self.cli("status", POOL, "--json")
            if done.code == 0 and wanted(found := done.json):
                return dict(found)
            assert done.code in {0, 5}, done.err
            time.sleep(0.1)

    def at(self, commit: str) -> Callable[[dict[str, Any]], bool]:
        """Whether a status is that of a full pool at ``commit``."""

        def wanted(status: dict[str, Any]) -> bool:
            slots = status["containers"]
            return (
                status["refresh"]["state"] == "idle"
                and status["counts"]["ready"] == status["target"] == len(slots)
                and {slot["commit"] for slot in slots} == {commit}
            )

        return wanted

    @contextmanager
    def held_install(self) -> Iterator[str]:
        """A new commit whose install line is in the middle while the block runs; it goes on after.

        What is given is the commit.
        """
        (self.repo / "install.sh").write_text(f"# {time.time_ns()}\n{HOLD}{INSTALL}")
        commit = self.commit(f"held {time.time_ns()}")
        self.ok("refresh", POOL)
        while not any(self.inside(builder, *HELD) for builder in self.containers("builder")):
            time.sleep(0.05)
        yield commit
        while not self.at(commit)(self.until(lambda _: True)):
            for builder in self.containers("builder"):
                self.inside(builder, *LET_GO)  # the one that was there, or one made anew
            time.sleep(0.1)

    def inside(self, container: str, *command: str) -> bool:
        """Whether a command succeeds in a container; one that is gone has none that does."""
        line = ["docker", "exec", container, *command]
        return subprocess.run(line, capture_output=True, check=False).returncode == 0

    def docker_name(self, container: str, *more: str) -> list[str]:
        """The engine's names of the containers that a ledger's container has."""
        return docker(
            "ps", "-a", "--format", "{{.Names}}", *more,
            "--filter", f"label={LABEL_INSTALL}={self.install}",
            "--filter", f"label={LABEL_CONTAINER}={container}",
            "--filter", f"label={LABEL_KIND}=slot",
        )  # fmt: skip

    def phase(self, container: str) -> str:
        """The phase in a container's lease file; empty when that is gone."""
        try:
            return str(json.loads(self.paths.slot(container).read_bytes())["phase"])
        except FileNotFoundError:
            return ""

    def kill(self, service: str) -> int:
        """Kill one service the hard way; returns the pid that it had."""
        pid = int(self.service(service)["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def until_back(self, service: str, killed: int) -> None:
        """Wait until a killed service has been started again and is ready."""
        while True:
            state = self.service(service)
            if state["pid"] not in {0, killed} and state["ready"]:
                return
            time.sleep(0.05)

    def leftovers(self) -> dict[str, Any]:
        """Where the host and the ledger differ; empty when they agree."""
        status = self.until(lambda _: True)
        ledger = {slot["container"] for slot in status["containers"]}
        claims = {slot["claim_id"] for slot in status["containers"] if slot["claim_id"]}
        personal = f" {self.paths.personal_root}/"
        seen = {
            # All kinds: a builder or a saver is a leftover too.
            "containers": {name.rpartition("-")[2].upper() for name in self.containers()},
            "slot files": {path.stem for path in self.paths.slots.glob("*.json")},
            "personal mounts": {
                line.split()[4].rpartition("/")[2]
                for line in Path("/proc/self/mountinfo").read_text().splitlines()
                if personal in line
            },
            "personal folders": {path.name for path in self.paths.personal_root.iterdir()},
            "listeners": self._sites(),
        }
        found: dict[str, Any] = {
            name: sorted(there ^ ledger) for name, there in seen.items() if there != ledger
        }
        indexed = {path.name for path in self.paths.claims.iterdir()}
        if indexed != claims:
            found["claims"] = sorted(indexed ^ claims)
        return found

    def _sites(self) -> set[str]:
        try:
            found = GateClient(self.paths).list()
        except GateUnavailable as error:
            return {str(error)}
        return {name + site.get("error", "") for name, site in found.items()}


@dataclass
class Shaken(Watched):
    """A rough stack, watched."""

    stack: RoughStack

    @contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """Something is broken while the block runs; the pool may be below its target from then."""
        self.recorder.record(ev.Fault(time.time(), name), ev.PoolBelowTarget(time.time(), POOL))
        yield
        self.recorder.record(ev.FaultEnded(time.time(), name))

    def killed(self, service: str) -> None:
        """Kill a service and wait until it is back."""
        with self.fault(f"kill -9 {service}"):
            self.stack.until_back(service, self.stack.kill(service))

    def look(self) -> None:
        """Record what the host shows now."""
        self.recorder.slot_files(self.stack.paths.slots)

    def full_at(self, commit: str) -> None:
        """Wait until the pool is at its target with a commit."""
        status = self.stack.until(self.stack.at(commit))
        at = time.time()
        self.recorder.record(ev.PoolAtTarget(at, POOL))
        self.recorder.record(
            *(ev.ContainerReady(at, slot["container"]) for slot in status["containers"])
        )

    def retried(self, *line: str, good: frozenset[int] = frozenset({0})) -> Any:
        """A command line asked again, unchanged, until it succeeds; its document."""
        while True:
            done = self.stack.cli(*line, "--json")
            if done.code in good:
                return done.json if done.code == 0 else None
            time.sleep(0.05)

    def claim_through(self, claim_id: str) -> dict[str, Any]:
        """A claim asked for by one id until it is granted, whatever breaks meanwhile."""
        lease: dict[str, Any] = self.retried("claim", POOL, "--id", claim_id, "--wait", "60s")
        self.recorder.record(
            ev.Granted(
                time.time(), POOL, claim_id, lease["container"], lease["token"],
                lease["expires_at"],
            )
        )  # fmt: skip
        return lease

    def nothing_is_left_over(self) -> None:
        """Wait, as long as the sweep may take, until host and ledger agree."""
        deadline = time.monotonic() + SWEPT_WITHIN_S
        while left := self.stack.leftovers():
            assert time.monotonic() < deadline, left
            time.sleep(0.2)
