"""Each target of the design, measured beside its baseline in the same run."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from bench.measure import Result, p50, p99, timed
from bench.stack import POOL, Stack, push
from greenroom.cli.streaming import Kept, Order, stream

BATCH = 10
LOADED = "refill and build"
QUIET = "quiet"
"""Nothing else goes on: the pool is full again before the next claim."""
_ids = (f"b{os.getpid()}-{number}" for number in itertools.count())


@contextmanager
def loaded(stack: Stack) -> Iterator[None]:
    """A refill of BATCH and a snapshot build go on inside the block."""
    held = [stack.claim(next(_ids))["claim_id"] for _ in range(BATCH)]
    push(stack)
    stack.greenroom("refresh", POOL)
    try:
        yield
    finally:
        stack.give_back(*held)
        stack.until(lambda s: s["refresh"]["state"] == "idle" and s["counts"]["stale"] == 0)


def claims(stack: Stack, load: str, rounds: int, size: int) -> list[Result]:
    """P1 and P2: claim alone, and with three secrets, two files and the policy's swap."""
    personal = {
        "secrets": {f"SECRET_{n}": "x" * 40 for n in range(3)},
        "files": {"a.txt": "aGVsbG8=", "b.txt": "d29ybGQ="},
    }
    plain, _ = _claim_times(stack, load, rounds, size, {})
    rich, stages = _claim_times(stack, load, rounds, size, personal)
    baseline = _docker_run(stack, 5)
    return [
        Result(
            "P1", "claim", load, p50(plain), p99(plain), "docker run of the snapshot", baseline,
            p50(plain) / baseline, "p50 ≤ 15 ms, p99 ≤ 50 ms",
            p50(plain) <= 15 and p99(plain) <= 50, len(plain),
        ),
        Result(
            "P2", "claim, 3 secrets, 2 files", load, p50(rich), p99(rich),
            "docker run of the snapshot", baseline, p50(rich) / baseline, "p50 ≤ 25 ms",
            p50(rich) <= 25, len(rich),
        ),
        *(
            Result("P2", f"its stage `{name}`", load, p50(spent), p99(spent), samples=len(spent))
            for name, spent in stages.items()
        ),
    ]  # fmt: skip


def _claim_times(
    stack: Stack, load: str, rounds: int, size: int, personal: dict[str, Any]
) -> tuple[list[float], dict[str, list[float]]]:
    """Milliseconds of each claim, and those that the API says it spent in each stage."""
    times: list[float] = []
    stages: dict[str, list[float]] = {}

    def claim(ident: str) -> None:
        for name, spent in stack.claim(ident, **personal)["stages_ms"].items():
            stages.setdefault(name, []).append(spent)

    def some(count: int) -> None:
        held = []
        for _ in range(count):
            if load == QUIET:
                stack.full(size)
            ident = next(_ids)
            times.append(timed(lambda ident=ident: claim(ident)))  # type: ignore[misc]
            held.append(ident)
        stack.give_back(*held)

    for _ in range(rounds):
        stack.full(size)
        if load == QUIET:
            some(size)
        else:
            with loaded(stack):
                some(size - BATCH)
    return times, stages


def first_command(stack: Stack, load: str, rounds: int) -> list[Result]:
    """P3 and P4: claim to first command finished, against bare exec and the cold path."""
    ask = ["curl", "-s", "-o", "/dev/null", "--noproxy", "", "-x", "http://127.0.0.1:3128"]
    command = [*ask, "--fail", stack.allowed]
    whole, bare, first = [], [], []
    for _ in range(rounds):
        with _under(stack, load):
            stack.full(1)
            ident, other = next(_ids), next(_ids)
            whole.append(timed(lambda i=ident: _claim_and_run(stack, i, *command)))  # type: ignore[misc]
            docker_id = _docker_id(stack, ident)
            bare.append(timed(lambda d=docker_id: _docker("exec", d, *command)))  # type: ignore[misc]
            stack.full(1)
            first.append(timed(lambda i=other: _claim_and_run(stack, i, "true")))  # type: ignore[misc]
            stack.give_back(ident, other)
    ratio = p50(whole) / p50(bare)
    cold = timed(lambda: _cold(stack))
    return [
        Result(
            "P3", "claim to first command, one allowed request", load, p50(whole), p99(whole),
            "bare docker exec of the same", p50(bare), ratio, "≤ 1.3", ratio <= 1.3, rounds,
        ),
        Result(
            "P4", "cold path ÷ claim and `true` in it", load, p50(first), p99(first),
            "cold path to `true`", cold, cold / p50(first), "≥ 300 where install takes 25 s",
            cold / p50(first) >= 300, rounds,
        ),
    ]  # fmt: skip


def _under(stack: Stack, load: str) -> AbstractContextManager[None]:
    return nullcontext() if load == QUIET else loaded(stack)


def _claim_and_run(stack: Stack, ident: str, *command: str) -> None:
    stack.claim(ident)
    if stream(stack.api, Order(ident, command), Kept()):
        raise RuntimeError(f"{command} failed")


def refill(stack: Stack, load: str, size: int) -> Result:
    """P6: a refill of BATCH against a plain loop of docker run with the same flags."""
    stack.full(size)
    if load != QUIET:
        push(stack)
        stack.greenroom("refresh", POOL)
    held = [next(_ids) for _ in range(BATCH)]
    for ident in held:
        stack.claim(ident)
    ours = stack.full(size) * 1000
    stack.give_back(*held)
    stack.until(lambda s: s["refresh"]["state"] == "idle" and s["counts"]["stale"] == 0)
    plain = _docker_run(stack, BATCH) * BATCH
    return Result(
        "P6", f"refill of {BATCH}", load, ours, None, "loop of docker run", plain,
        ours / plain, "≤ 1.2", ours / plain <= 1.2,
    )  # fmt: skip


def command_line(stack: Stack, load: str, rounds: int) -> list[Result]:
    """P10: wall time of the commands, processes and all."""
    claim_times, run_times = [], []
    for _ in range(rounds):
        with _under(stack, load):
            stack.full(2)
            ident = next(_ids)
            claim_times.append(
                timed(lambda i=ident: stack.greenroom("claim", POOL, "--id", i))  # type: ignore[misc]
            )
            run_times.append(timed(lambda: stack.greenroom("run", POOL, "--", "true")))
            stack.give_back(ident)
    bare = p50([timed(lambda: _docker("version")) for _ in range(rounds)])
    return [
        Result(
            "P10", "`greenroom claim`", load, p50(claim_times), p99(claim_times),
            "`docker version`", bare, p50(claim_times) / bare, "≤ 0.35 s",
            p50(claim_times) <= 350, rounds,
        ),
        Result(
            "P10", "`greenroom run -- true`", load, p50(run_times), p99(run_times),
            "`docker version`", bare, p50(run_times) / bare, "≤ 0.5 s", p50(run_times) <= 500,
            rounds,
        ),
    ]  # fmt: skip


def _cold(stack: Stack) -> None:
    """What everybody does without a pool: run, clone, install, and then the first command."""
    bundle = os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt"
    script = (
        "git clone -q /origin work && cd work && python3 -m venv .venv && "
        ".venv/bin/pip install -q -r requirements.txt && true"
    )
    _docker(
        "run", "--rm", "--network", "host", "-u", "root", "-w", "/home/agent",
        "-v", f"{stack.repo}:/origin:ro", "-v", f"{bundle}:/ca.crt:ro", "-e", "PIP_CERT=/ca.crt",
        "-e", "GIT_CONFIG_COUNT=1", "-e", "GIT_CONFIG_KEY_0=safe.directory",
        "-e", "GIT_CONFIG_VALUE_0=*", "greenroom/base", "sh", "-ec", script,
    )  # fmt: skip


def _docker_run(stack: Stack, count: int) -> float:
    """Milliseconds of one `docker run -d` of the snapshot with a slot's flags, on average."""
    image = stack.status()["snapshot"]["image_tag"]
    names: list[str] = []

    def run(_: int) -> None:
        done = _docker(
            "run", "-d", "--network", "none", "--cap-drop", "ALL", "--security-opt",
            "no-new-privileges", "--init", "--cpus", "2", "--memory", "1g", "--memory-swap", "1g",
            "--pids-limit", "256", image, "sleep", "infinity",
        )  # fmt: skip
        names.append(done.stdout.strip())

    try:
        return timed(lambda: list(map(run, range(count)))) / count
    finally:
        _docker("rm", "-f", *names)


def _docker_id(stack: Stack, ident: str) -> str:
    container = stack.api.get("claims", ident)["container"]
    label = f"label=greenroom.container={container}"
    return _docker("ps", "-q", "--no-trunc", "--filter", label).stdout.strip()


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    docker = shutil.which("docker", path="/usr/bin:" + os.environ["PATH"]) or "docker"
    return subprocess.run([docker, *words], check=True, text=True, capture_output=True)


Work = Callable[[Stack], list[Result]]
