"""An engine is started where none runs, whatever an earlier life has left.

On namespaces of the test's own (mounts, network, processes), with an empty /run and an empty
/var/lib/docker, so that the machine's engine is neither seen nor touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="starting an engine needs root"),
    pytest.mark.skipif(shutil.which("dockerd") is None, reason="no dockerd on this machine"),
]

ISOLATED = """
mount -t tmpfs tmpfs /run
mkdir -p /run/lock
mount -t tmpfs tmpfs /var/lib/docker
exec "$@"
"""

LIVES = """
import os, select, signal, sys
from pathlib import Path
from greenroom.core.paths import StatePaths
from greenroom.services import engine_setup, processes
from greenroom.services.docker_http import DockerHttp

paths = StatePaths(Path(sys.argv[1]))
said = []

def report(step, detail):
    said.append(detail)

def life():
    engine = engine_setup.ensure_docker(paths, {}, report)
    assert DockerHttp(engine.docker_host).answers()
    process = engine_setup.started_engine()
    assert process is not None
    return process

def kill(pid):
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([handle], [], [], 20)
    os.close(handle)

pid_files = [Path("/run/docker.pid"), Path("/run/docker/containerd/containerd.pid")]
first = life()
assert life() == first  # one that answers is left alone

# Killed, and its numbers have passed to another program.
containerd = int(pid_files[1].read_text())
kill(first.pid)
if processes.program(containerd) == "containerd":
    kill(containerd)
assert Path("/run/docker.sock").exists()
for path in pid_files:
    path.write_text(str(os.getpid()))
second = life()
assert second != first
assert any("docker.pid" in line for line in said), said
assert any("containerd.pid" in line for line in said), said

# Used by another install: stays. Used by nobody: stops, and nothing of it is left.
with engine_setup.engine_in_use():
    engine_setup.stop_engine(report)
    assert processes.is_alive(second)
containerd = int(pid_files[1].read_text())
engine_setup.stop_engine(report)
assert not processes.is_alive(second)
assert processes.program(containerd) != "containerd"
assert engine_setup.started_engine() is None
engine_setup.stop_engine(report)
print("done")
"""


def test_an_engine_is_started_killed_started_again_and_stopped(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-euc", ISOLATED, "sh", sys.executable, "-P", "-c", LIVES, str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={key: value for key, value in os.environ.items() if key != "DOCKER_HOST"},
    )
    log = tmp_path / "logs" / "dockerd.log"
    tail = log.read_text()[-2000:] if log.exists() else ""
    assert done.stdout.strip() == "done", done.stderr + tail
