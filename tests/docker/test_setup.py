"""The machine gets ready: engine and base image, on the real engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from greenroom.core.paths import StatePaths
from greenroom.services.base_image import content_tag, ensure_base_image, source_folder
from greenroom.services.docker_http import DockerHttp
from greenroom.services.engine_setup import ensure_docker

pytestmark = pytest.mark.docker


class Steps:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, step: str, detail: str) -> None:
        self.lines.append(f"{step}: {detail}")


@pytest.fixture(scope="module")
def docker_host(tmp_path_factory: pytest.TempPathFactory) -> str:
    paths = StatePaths(tmp_path_factory.mktemp("state"))
    return ensure_docker(paths, os.environ, Steps()).docker_host


@pytest.fixture(scope="module")
def image(docker_host: str) -> str:
    return ensure_base_image(docker_host, os.environ, Steps())


def inside(image: str, script: str) -> str:
    done = subprocess.run(
        [*("docker", "run", "--rm", "--network", "none"), image, "sh", "-euc", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_image_is_named_by_its_content_and_is_the_latest(docker_host: str, image: str) -> None:
    docker = DockerHttp(docker_host)
    assert image == f"greenroom/base:{content_tag(source_folder())}"
    assert docker.image_id(image) == docker.image_id("greenroom/base")


def test_a_second_time_builds_nothing(docker_host: str, image: str) -> None:
    steps = Steps()
    assert ensure_base_image(docker_host, os.environ, steps) == image
    assert [line for line in steps.lines if "building" in line] == []


def test_other_content_is_another_image(tmp_path: Path) -> None:
    for path in source_folder().iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert content_tag(tmp_path) == content_tag(source_folder())
    (tmp_path / "tools.lock").write_text("uv==1\n")
    assert content_tag(tmp_path) != content_tag(source_folder())


def test_its_user_can_work_there_and_has_the_tools(image: str) -> None:
    answer = inside(
        image,
        """
        id -un; id -u; id -g; pwd; echo $HOME
        touch /workspace/file ~/file
        for tool in git gcc make pkg-config curl less ps ssh uv node npm npx python3 python; do
            command -v $tool >/dev/null || echo missing $tool
        done
        python3 -m venv /tmp/v && /tmp/v/bin/pip --version >/dev/null
        uv --version >/dev/null; npm --version >/dev/null
        node -e 'console.log(2 + 2)'
        test -s /etc/ssl/certs/ca-certificates.crt
        """,
    )
    assert answer.split() == ["agent", "1000", "1000", "/workspace", "/home/agent", "4"]


def test_a_native_add_on_finds_its_headers(image: str) -> None:
    source = "#include <node_api.h>\\n#include <Python.h>\\nint main(void){return 0;}"
    inside(
        image,
        f"""printf '{source}' > /tmp/a.c
        gcc -c /tmp/a.c -o /tmp/a.o -I/usr/local/include/node $(pkg-config --cflags python3)
        test "$(npm config get nodedir)" = /usr/local""",
    )


def test_nothing_of_the_hosts_registry_or_its_certificates_is_in_it(
    docker_host: str, image: str
) -> None:
    listing = inside(
        image,
        "ls /etc/pip.conf /etc/xdg/pip /root/.config /root/.npmrc ~/.npmrc ~/.config "
        "/usr/local/share/ca-certificates/* /etc/apt/apt.conf.d/*proxy* 2>/dev/null || true; env",
    )
    for line in listing.splitlines():
        assert line.partition("=")[0] in {"PATH", "LANG", "HOME", "HOSTNAME", "PWD"}, line
    # The certificates are Debian's own and no more: the same as those its package has.
    inside(
        image,
        "n=$(grep -c 'BEGIN CERTIFICATE' /etc/ssl/certs/ca-certificates.crt); "
        "test $n = $(find /usr/share/ca-certificates -name '*.crt' | wc -l)",
    )
    history = DockerHttp(docker_host).get(f"/images/{image}/history")
    text = " ".join(str(layer["CreatedBy"]).lower() for layer in history)
    assert "proxy=" not in text
    assert "pip_" not in text


def test_the_command_says_what_it_does_on_stderr_alone(image: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "greenroom.services"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "GREENROOM_STATE": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert f"base image: {image} is there" in done.stderr
