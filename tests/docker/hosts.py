"""A host for tests: opener and gate as real processes, a repository, a pool file for it."""

import os
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from activities.context import HostContext
from activities.making import take_away
from activities.profiles import own_label
from activities.registries import Registries
from activities.slotfiles import all_slots, read_slot
from greenroom.core.config import PoolConfig
from greenroom.core.paths import StatePaths
from greenroom.services.settings import Settings, load_settings
from tests.chaos import events as ev
from tests.chaos.recorder import Recorder

GIT = ("git", "-c", "user.name=Tess Tester", "-c", "user.email=tess@example.org")


SERVICES = {
    "opener": "from greenroom.gate.opener import main; main()",
    "gate": "from greenroom.gate.server import main; main()",
}


class Service:
    """The opener or the gate as a process of its own."""

    def __init__(self, name: str, state: Path) -> None:
        self._name, self._state = name, state
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self._file("out").open("a") as out, self._file("err").open("a") as err:
            begin = out.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVICES[self._name]],
                env={**os.environ, "GREENROOM_STATE": str(self._state)},
                stdout=out,
                stderr=err,
            )
        for _ in range(500):
            with self._file("out").open() as out:
                out.seek(begin)
                if out.readline() == "ready\n":
                    return
            assert self._process.poll() is None, self._file("err").read_text()
            time.sleep(0.02)
        raise AssertionError(f"the {self._name} did not get ready")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _file(self, kind: str) -> Path:
        return self._state / "logs" / f"{self._name}.{kind}"


def new_settings(state: Path) -> Settings:
    state.chmod(0o755)
    (state / "install_id").write_text(secrets.token_hex(8))
    (state / "logs").mkdir()
    return load_settings({"GREENROOM_STATE": str(state), "GREENROOM_HOST": "testhost"})


@dataclass
class Host:
    ctx: HostContext
    gate: Service
    opener: Service
    registries: Registries

    @property
    def paths(self) -> StatePaths:
        return self.ctx.paths

    def objects(self) -> list[str]:
        return [c["Names"][0] for c in self.ctx.engine.containers(own_label(self.ctx))]


def _hear_of_removals(checked: Recorder) -> None:
    """Wait until the engine's events are here; what they never tell is the checker's business."""
    for _ in range(100):
        events = checked.events
        started = {e.container for e in events if isinstance(e, ev.ContainerStarted)}
        if started <= {e.container for e in events if isinstance(e, ev.ContainerRemoved)}:
            return
        time.sleep(0.05)


def clean(ctx: HostContext) -> None:
    for container in all_slots(ctx.paths):
        record = read_slot(ctx.paths, container)
        take_away(ctx, record.kind if record else "slot", container)
    for left in ctx.engine.containers(own_label(ctx)):
        ctx.engine.remove(left["Id"])
    for _ in range(5):  # an image goes after those that were built upon it
        for image in ctx.engine.images(own_label(ctx)):
            for tag in image.get("RepoTags") or []:
                if tag != "<none>:<none>":
                    ctx.engine.remove_image(tag)
            ctx.engine.remove_image(image["Id"])


class Repo:
    """A git repository on the host."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            [*GIT, *arguments], cwd=self.path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, files: dict[str, str], message: str = "change") -> str:
        for name, text in files.items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD")


def pool_config(repo: str, **changes: object) -> PoolConfig:
    small = {
        "name": "tiny",
        "repo": repo,
        "install": ["mkdir -p built && echo installed > built/deps"],
        "build": ["echo artefact > built/out; echo stray > stray.txt"],
        "verify": ["test -f built/out && test -f built/deps"],
        "limits": {"cpus": 1, "memory": "256m", "pids": 128},
    }
    return PoolConfig.model_validate({**small, **changes})
