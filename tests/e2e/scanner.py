"""Looks for a value wherever an install could leave one by mistake."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.e2e.stack import Stack, docker

BASE = "greenroom/base"
FOLDERS = ("run", "logs", "slots", "claims", "pools", "evidence", "saved")


def places(stack: Stack, value: bytes) -> set[str]:
    """The names of the places in which ``value`` stands in the clear."""
    images = stack_images(stack)
    found = {name for name, text in _texts(stack, images) if value in text}
    folders = [stack.paths.root / name for name in FOLDERS]
    if _in_files(value, [folder for folder in folders if folder.exists()]):
        found.add("logs and state")
    if _in_files(value, sorted(_layers(images) - _layers([BASE]))):
        found.add("image layers")
    return found


def stack_images(stack: Stack) -> list[str]:
    """Every image of the install."""
    mine = f"label=greenroom.install={stack.install}"
    return sorted(set(docker("images", "-a", "-q", "--no-trunc", "--filter", mine)))


def _texts(stack: Stack, images: list[str]) -> Iterator[tuple[str, bytes]]:
    for path in stack.paths.root.glob("temporal.db*"):
        yield "temporal", path.read_bytes()
    names = stack.containers()
    yield "docker inspect", _said("inspect", *names, *images)
    for image in images:
        yield "image history", _said("history", "--no-trunc", image)
    for name in names:
        yield "docker logs", _said("logs", name)
    yield "metrics", _metrics(stack)


def _said(*words: str) -> bytes:
    # A container may be gone meanwhile; what is there is said all the same.
    done = subprocess.run(["docker", *words], capture_output=True, check=False)
    return done.stdout + done.stderr


def _metrics(stack: Stack) -> bytes:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(stack.paths.api_socket))
    connection.request("GET", "/metrics")
    text = connection.getresponse().read()
    connection.close()
    return text


def _layers(images: list[str]) -> set[Path]:
    found: set[Path] = set()
    for image in images:
        told: list[dict[str, Any]] = json.loads(_said("image", "inspect", image))
        data = told[0]["GraphDriver"]["Data"]
        found |= {Path(data["UpperDir"]), *map(Path, data.get("LowerDir", "").split(":"))}
    return found - {Path()}


def _in_files(value: bytes, folders: list[Path]) -> bool:
    assert folders
    line = ["grep", "-rqaF", "--devices=skip", "-e", value.decode(), *map(str, folders)]
    done = subprocess.run(line, capture_output=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    return done.returncode == 0
