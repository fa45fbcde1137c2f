"""One command in a container that outlives whoever started it, and can be found again.

A small runner in the container, detached, writes the command's output and exit code into files
there; ``run_job`` follows them. When its process dies, the next one follows on. The command is
started once: the host notes the start before and after it, and the runner makes its folder or
does nothing.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from temporalio.exceptions import CancelledError

from activities.docker_http import EngineAnswerError
from activities.engine import Engine, Exec, no_tick
from greenroom.core.errors import EngineError
from greenroom.core.task_messages import TAIL_BYTES, RunOutcome, RunResult

OUTPUT_LIMIT = 64 << 20
"""Bytes that are kept of each stream; what comes after them is dropped (but for the tail)."""
_NAMES = ("stdout", "stderr")
_STATE = "job.json"
_PAUSE_S = 0.3
_CODE = re.compile(r"[0-9]{1,3}")
_FOLLOWED, _VANISHED, _UNREADABLE, _NOT_STARTED = 0, 3, 4, 5

_RUNNER = r"""
d=$1 w=$2; shift 2
umask 077
mkdir "$d" || { [ -d "$d" ] && exit 0; exit 71; }
: >"$d/out"; : >"$d/err"
echo $$ >"$d/.pid" && mv "$d/.pid" "$d/pid"
if cd -- "$w" 2>>"$d/err"; then
    "$@" >>"$d/out" 2>>"$d/err" </dev/null
    code=$?
else
    code=126
fi
echo "$code" >"$d/.code" && mv "$d/.code" "$d/code"
"""
_FOLLOWER = r"""
d=$1 o=$2 e=$3 round=0
until [ -e "$d/pid" ]; do
    [ "$round" -ge 100 ] && exit 5
    round=$((round + 1)); sleep 0.1
done
round=0
while :; do
    over=
    if [ -e "$d/code" ]; then over=0
    elif ! kill -0 "$(cat "$d/pid")" 2>/dev/null; then over=3; [ -e "$d/code" ] && over=0
    fi
    n=$(wc -c <"$d/out") || exit 4
    if [ "$n" -gt "$o" ]; then
        tail -c "+$((o + 1))" "$d/out" | head -c "$((n - o))"; o=$n
    fi
    n=$(wc -c <"$d/err") || exit 4
    if [ "$n" -gt "$e" ]; then
        tail -c "+$((e + 1))" "$d/err" | head -c "$((n - e))" >&2; e=$n
    fi
    [ -n "$over" ] && exit "$over"
    if [ "$round" -lt 20 ]; then round=$((round + 1)); sleep 0.1; else sleep 0.5; fi
done
"""
_KILLER = r'kill -s KILL -- "-$(cat "$1/pid")"'


@dataclass(frozen=True)
class Job:
    """What to run. ``key`` tells one job of a folder from an earlier one there.

    ``command`` goes through the holder's own environment already; ``limit_s`` 0 means none.
    ``secrets`` are taken out of the tails.
    """

    key: str
    folder: Path
    command: Exec
    limit_s: float = 0.0
    secrets: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The runner's folder in the container."""
        return job_place(self.key)


class _Late(Exception):  # noqa: N818  (ends the following, nothing more)
    """The command's time is over."""


def job_place(key: str) -> str:
    """The folder of a job in its container, which is its holder's alone."""
    return f"/tmp/.greenroom-{key}"  # noqa: S108  (nobody else is in there)


def wrapped(command: tuple[str, ...], place: str, workdir: str) -> tuple[str, ...]:
    """The runner's own command line."""
    return ("/bin/sh", "-c", _RUNNER, "greenroom", place, workdir, *command)


def run_job(engine: Engine, job: Job, check: Callable[[], None]) -> RunResult:
    """Start the command unless it was started, follow it to its end, and say how that was.

    ``check`` is called about every second and ends the following by raising: CancelledError kills
    the command first, anything else leaves it running. ``died`` means that the container does not
    run. Raises EngineError, which may be tried again.
    """
    job.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = _State.of(job)
    if state.result is not None:
        return state.result
    reattached = state.started
    output = _Output(job.folder)
    try:
        outcome, code = _follow(engine, job, state, output, check)
    finally:
        output.close()
    tails = [_tail(text, job.secrets) for text in output.tails]
    result = RunResult(
        outcome=outcome,
        exit_code=code,
        detail=state.why,
        stdout_tail=tails[0],
        stderr_tail=tails[1],
        output=str(job.folder),
        seconds=round(max(0.0, time.time() - state.began), 3),
        reattached=reattached,
    )
    state.result = result
    state.write()
    return result


def _follow(
    engine: Engine, job: Job, state: _State, output: _Output, check: Callable[[], None]
) -> tuple[RunOutcome, int | None]:
    def tick() -> None:
        check()
        if job.limit_s and time.time() - state.began > job.limit_s:
            raise _Late

    try:
        _start(engine, job, state)
        while True:
            tick()
            ended = engine.run(_follower(job, output), output.take, tick)
            if ended == _FOLLOWED:
                return "exited", _exit_code(engine, job)
            if not _runs(engine, job):
                return "died", None
            if ended in {_VANISHED, _UNREADABLE, _NOT_STARTED}:
                kill(engine, job)
                state.why = _WHY[ended]
                return "lost", None
            time.sleep(_PAUSE_S)  # the follower itself was killed: by the command, or by memory
    except CancelledError:
        kill(engine, job)
        raise
    except _Late:
        kill(engine, job)
        state.why = f"took longer than {job.limit_s:g} s and was killed"
        return "timed_out", None
    except EngineAnswerError:
        if _runs(engine, job):
            raise
        return "died", None


_WHY = {
    _VANISHED: "what watched over it in the container was killed",
    _UNREADABLE: "its output in the container was removed",
    _NOT_STARTED: "it did not start (is /tmp writable there?)",
}


def _start(engine: Engine, job: Job, state: _State) -> None:
    if state.started:
        return
    state.write()  # from here on it may run
    engine.start_detached(job.command)
    state.started = True
    state.write()


def _follower(job: Job, output: _Output) -> Exec:
    words = (job.place, *(str(size) for size in output.sizes()))
    return _beside(job, _FOLLOWER, *words)


def kill(engine: Engine, job: Job) -> None:
    """SIGKILL to the command's process group. What cannot be killed so ends with the container."""
    try:
        engine.capture(_beside(job, _KILLER, job.place), no_tick, 1024)
    except EngineError:
        return


def _exit_code(engine: Engine, job: Job) -> int:
    told = engine.capture(_beside(job, 'cat "$1/code"', job.place), no_tick, 64)
    text = told.stdout.strip()
    if told.code != 0 or not _CODE.fullmatch(text):  # a file of the container: it may hold anything
        raise EngineError(f"the exit code of {job.key} cannot be read")
    return int(text)


def _beside(job: Job, script: str, *words: str) -> Exec:
    command = ("/bin/sh", "-c", script, "greenroom", *words)
    return replace(job.command, command=command, environment={})


def _runs(engine: Engine, job: Job) -> bool:
    seen = engine.inspect(job.command.container)
    return seen is not None and bool(seen["State"]["Running"])


def _tail(raw: bytes, secrets: tuple[str, ...]) -> str:
    """The end of an output, whole secrets taken out before it is cut."""
    text = raw.decode(errors="replace")
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret.strip()) >= 4:
            text = text.replace(secret, "[secret]").replace(secret.strip(), "[secret]")
    return text.encode()[-TAIL_BYTES:].decode(errors="ignore")


@dataclass
class _State:
    """The host's note of a job, written before and after its start."""

    path: Path
    key: str
    began: float
    started: bool = False
    why: str = ""
    result: RunResult | None = None

    @classmethod
    def of(cls, job: Job) -> _State:
        """The note that is there, or that of a new job, whose old outputs are removed."""
        path = job.folder / _STATE
        try:
            told = json.loads(path.read_text())
        except FileNotFoundError:
            told = {}
        if told.get("key") != job.key:
            for name in _NAMES:
                (job.folder / name).unlink(missing_ok=True)
            return cls(path, job.key, time.time())
        result = told.get("result")
        return cls(
            path,
            job.key,
            float(told["began"]),
            bool(told["started"]),
            result=RunResult.model_validate(result) if result else None,
        )

    def write(self) -> None:
        told = {
            "key": self.key,
            "began": self.began,
            "started": self.started,
            "result": self.result.model_dump(mode="json") if self.result else None,
        }
        fresh = self.path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(fresh, flags, 0o600), "w") as stream:
            stream.write(json.dumps(told))
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self.path)


class _Output:
    """The files of a job on the host, and the end of each stream in memory."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fds = [os.open(folder / name, flags, 0o600) for name in _NAMES]
        # Twice the tail and room for a secret that begins before it.
        self._window = 2 * TAIL_BYTES + 64 * 1024
        self.tails = [self._end(fd) for fd in self._fds]

    def take(self, is_error: bool, data: bytes) -> None:  # noqa: FBT001  (the shape of a sink)
        fd = self._fds[is_error]
        room = OUTPUT_LIMIT - os.fstat(fd).st_size
        view = memoryview(data[: max(0, room)])
        while view:
            view = view[os.write(fd, view) :]
        self.tails[is_error] = (self.tails[is_error] + data)[-self._window :]

    def sizes(self) -> list[int]:
        """How much of each stream is here."""
        return [os.fstat(fd).st_size for fd in self._fds]

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def _end(self, fd: int) -> bytes:
        size = os.fstat(fd).st_size
        return os.pread(fd, self._window, max(0, size - self._window))
