"""A Greenroom of its own for a run of the benchmarks, and the repository that it prepares.

The repository is made on the spot: a Python project whose locked dependencies take a while to
install. Nothing of another install on the same engine is touched.
"""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenroom.cli.http_client import Api, Ask
from greenroom.core.paths import StatePaths
from greenroom.core.wire import url

GREENROOM = Path(sys.executable).with_name("greenroom")
REQUIREMENTS = ("numpy", "pandas", "scipy", "sympy", "mypy", "hypothesis", "networkx")
POOL = "bench"
_PATIENCE_S = 900.0
_LOOK_S = 0.1
"""Each look at the pool is a query to its keeper: more often would be a load of its own."""


@dataclass
class Stack:
    """A running install with one pool; ``allowed`` is a URL that a claim may reach."""

    api: Api
    environ: dict[str, str]
    repo: Path
    allowed: str

    def greenroom(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the command line; raises CalledProcessError."""
        command = [str(GREENROOM), *words]
        return subprocess.run(command, env=self.environ, check=True, text=True, capture_output=True)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get("pools", POOL)
        return found

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> float:
        """Seconds until the pool's status is as wanted."""
        began = time.perf_counter()
        while not wanted(self.status()):
            if time.perf_counter() - began > _PATIENCE_S:
                raise TimeoutError(json.dumps(self.status(), indent=1)[-3000:])
            time.sleep(_LOOK_S)
        return time.perf_counter() - began

    def full(self, count: int) -> float:
        return self.until(lambda status: status["counts"]["ready"] >= count)

    def claim(self, claim_id: str, **personal: object) -> dict[str, Any]:
        body = {"claim_id": claim_id, "wait_s": 300, **personal}
        ask = Ask("POST", url("pools", POOL, "claims"), body, timeout_s=360)
        granted: dict[str, Any] = self.api.ask(ask)
        return granted

    def give_back(self, *claim_ids: str) -> None:
        for claim_id in claim_ids:
            self.api.delete("claims", claim_id, pool=POOL, save=False, wait=False)
        gone = set(claim_ids)
        self.until(lambda s: gone.isdisjoint(c["claim_id"] for c in s["containers"]))


@contextmanager
def running(size: int) -> Iterator[Stack]:
    """A stack with ``size`` ready containers, taken down and removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="greenroom-bench-"))
    root.chmod(0o755)
    environ = {**os.environ, "GREENROOM_STATE": str(root / "state"), "GREENROOM_HOST": root.name}
    with _allowed_server() as allowed:
        pool_file = _write_pool(root, size, allowed)
        stack = Stack(Api(StatePaths(root / "state")), environ, root / "repo", allowed)
        try:
            subprocess.run(
                [str(GREENROOM), "up", "--pool", str(pool_file)], env=environ, check=True
            )
            yield stack
        finally:
            subprocess.run([str(GREENROOM), "delete", POOL, "--force"], env=environ, check=False)
            subprocess.run([str(GREENROOM), "down", "--force"], env=environ, check=False)
            shutil.rmtree(root, ignore_errors=True)


def push(stack: Stack) -> None:
    """Commit something, so that a refresh has a snapshot to build."""
    note = stack.repo / "note.txt"
    note.write_text(f"{time.time()}\n")
    _git(stack.repo, "commit", "-qam", "note")


def _write_pool(root: Path, size: int, allowed: str) -> Path:
    repo = root / "repo"
    repo.mkdir()
    (repo / "requirements.txt").write_text("\n".join(REQUIREMENTS) + "\n")
    (repo / "app.py").write_text("import numpy\nprint(numpy.arange(3).sum())\n")
    (repo / "note.txt").write_text("first\n")
    (repo / ".gitignore").write_text(".venv/\n__pycache__/\n")
    _git(repo, "init", "-q", "-b", "main")
    _git(repo, "add", ".")
    _git(repo, "commit", "-qm", "first")
    pool = {
        "name": POOL,
        "repo": str(repo),
        "ref": "main",
        "verify": [".venv/bin/python app.py"],
        "size": {"min": size, "max": 4 * size},
        "network": {"provision": ["python"], "task": [allowed.removeprefix("http://").rstrip("/")]},
        "limits": {"cpus": 2, "memory": "1g", "pids": 256},
        "trust_host_ca": True,
    }
    path = root / "pool.yaml"
    path.write_text(json.dumps(pool))  # JSON is YAML
    return path


def _git(repo: Path, *words: str) -> None:
    who = ["-c", "user.name=bench", "-c", "user.email=bench@example.com"]
    subprocess.run(["git", "-C", str(repo), *who, *words], check=True, capture_output=True)


@contextmanager
def _allowed_server() -> Iterator[str]:
    """A web server on the host's loopback that the pool's policy names."""
    handler = http.server.SimpleHTTPRequestHandler
    handler.log_message = lambda *_: None  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as empty:
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), lambda *args: handler(*args, directory=empty)
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            server.server_close()
