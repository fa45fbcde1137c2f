"""The Docker Engine: the few calls that Greenroom makes, with the engine's errors sorted.

Not there is an answer (``None``, or success of a removal); what will fail again unchanged is a
PreparationError; everything else is an EngineError, which may be tried again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import quote

from activities.docker_http import Call, EngineAnswerError, Transport, socket_path
from greenroom.core.errors import EngineError, PreparationError

Json = dict[str, Any]
_TICK_S = 1.0
"""How often a silent stream is looked at again (cancelled? time over? process gone?)."""


@dataclass(frozen=True)
class Exec:
    """One command in a running container; ``user`` empty means the container's own."""

    container: str
    command: tuple[str, ...]
    user: str = ""
    workdir: str = ""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """How a command ended, and what it wrote to each stream (capped by the caller's sink)."""

    code: int
    stdout: str
    stderr: str


Sink = Callable[[bool, bytes], None]
Tick = Callable[[], None]


def no_tick() -> None:
    """For commands that end by themselves at once."""


class _Frames:
    """Takes apart the engine's stream of stdout and stderr: 8 bytes of header, then data."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._pending = b""

    def feed(self, data: bytes) -> None:
        self._pending += data
        while len(self._pending) >= 8:
            size = int.from_bytes(self._pending[4:8], "big")
            if len(self._pending) < 8 + size:
                return
            self._sink(self._pending[0] == 2, self._pending[8 : 8 + size])
            self._pending = self._pending[8 + size :]


class Engine:
    """One Docker Engine. Safe to use from several threads."""

    def __init__(self, docker_host: str) -> None:
        """``docker_host`` is ``unix:///path``; raises UsageError for any other."""
        self._http = Transport(socket_path(docker_host))

    def close(self) -> None:
        """Close the kept connections; a later call opens new ones."""
        self._http.close()

    # ── containers ───────────────────────────────────────────────────────────────────────────

    def inspect(self, name: str) -> Json | None:
        """What the engine knows of a container; None when there is none."""
        return self._or_none(Call("GET", f"/containers/{quote(name)}/json", timeout_s=10))

    def containers(self, labels: dict[str, str]) -> list[Json]:
        """The short form of every container, running or not, that has all these labels."""
        filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
        found: list[Json] = self._http.json(
            Call("GET", "/containers/json", {"all": "true", "filters": filters})
        )
        return found

    def create(self, name: str, body: Json) -> str:
        """Create a container; returns its id.

        Raises PreparationError when the image is not there or the engine refuses the settings.
        """
        try:
            made = self._http.json(
                Call("POST", "/containers/create", {"name": name}, body, timeout_s=60)
            )
        except EngineAnswerError as error:
            if error.status == 404:
                raise PreparationError(
                    f"image {body.get('Image')} is not on this host: {error.message}", step="create"
                ) from error
            if error.status == 400:
                raise PreparationError(error.message, step="create") from error
            raise
        return str(made["Id"])

    def start(self, ident: str) -> None:
        """Start a container; one that runs already is success."""
        try:
            self._http.json(Call("POST", f"/containers/{ident}/start", timeout_s=60))
        except EngineAnswerError as error:
            if error.status == 400:
                raise PreparationError(error.message, step="create") from error
            raise

    def kill(self, ident: str) -> None:
        """Kill all of a container's processes; one that does not run, or is gone, is success.

        Returns when it has stopped.
        """
        try:
            self._http.json(Call("POST", f"/containers/{ident}/kill"))
        except EngineAnswerError as error:
            if error.status not in {404, 409}:
                raise
        stopped = Call("POST", f"/containers/{ident}/wait", {"condition": "not-running"})
        try:
            self._http.json(stopped)
        except EngineAnswerError as error:
            if error.status != 404:
                raise

    def remove(self, ident: str) -> None:
        """Remove a container whatever it does, with its anonymous volumes; none is success."""
        try:
            self._http.json(
                Call("DELETE", f"/containers/{ident}", {"force": "true", "v": "true"}, timeout_s=90)
            )
        except EngineAnswerError as error:
            # 409: a removal is under way already, which the next look confirms.
            if error.status not in {404, 409}:
                raise

    # ── commands ─────────────────────────────────────────────────────────────────────────────

    def run(self, command: Exec, on_output: Sink, tick: Tick) -> int:
        """Run a command to its end and return its code; output goes to ``on_output``.

        ``on_output`` gets (is stderr, bytes). ``tick`` is called about every second and ends the
        run by raising (the process goes on: killing it is the caller's). Raises EngineError when
        the container does not run.
        """
        ident = self._make_exec(command, attached=True)
        start = Call("POST", f"/exec/{ident}/start", body={"Detach": False}, timeout_s=30)
        frames = _Frames(on_output)
        last_tick = time.monotonic()
        with self._http.live(start) as stream:
            while (data := stream.read(_TICK_S)) != b"":
                if data is not None:
                    frames.feed(data)
                if time.monotonic() - last_tick >= _TICK_S:
                    last_tick = time.monotonic()
                    tick()
                    if data is None and not self._exec(ident)["Running"]:
                        break  # something that it left behind holds its output open
        return self._exit_code(ident)

    def capture(self, command: Exec, tick: Tick, limit: int = 1 << 20) -> Output:
        """Run a command and keep at most ``limit`` bytes of each of its streams."""
        kept: tuple[bytearray, bytearray] = (bytearray(), bytearray())

        def keep(is_error: bool, data: bytes) -> None:  # noqa: FBT001  (the shape of on_output)
            mine = kept[is_error]
            mine += data[: limit - len(mine)]

        code = self.run(command, keep, tick)
        return Output(code, kept[0].decode(errors="replace"), kept[1].decode(errors="replace"))

    def start_detached(self, command: Exec) -> None:
        """Start a command that nobody listens to. Raises EngineError."""
        ident = self._make_exec(command, attached=False)
        self._http.json(Call("POST", f"/exec/{ident}/start", body={"Detach": True}, timeout_s=30))

    def _make_exec(self, command: Exec, *, attached: bool) -> str:
        body = {
            "Cmd": list(command.command),
            "User": command.user,
            "WorkingDir": command.workdir,
            "Env": [f"{key}={value}" for key, value in command.environment.items()],
            "AttachStdout": attached,
            "AttachStderr": attached,
        }
        call = Call("POST", f"/containers/{command.container}/exec", body=body, timeout_s=30)
        return str(self._http.json(call)["Id"])

    def _exec(self, ident: str) -> Json:
        seen: Json = self._http.json(Call("GET", f"/exec/{ident}/json", timeout_s=10))
        return seen

    def _exit_code(self, ident: str) -> int:
        for _ in range(100):
            seen = self._exec(ident)
            if not seen["Running"] and seen["ExitCode"] is not None:
                return int(seen["ExitCode"])
            time.sleep(0.02)  # the stream ends a moment before the code is known
        raise EngineError("Docker does not say how a command ended")

    # ── images ───────────────────────────────────────────────────────────────────────────────

    def inspect_image(self, ref: str) -> Json | None:
        """What the engine knows of an image; None when it is not on this host."""
        return self._or_none(Call("GET", f"/images/{quote(ref, safe='/:@')}/json", timeout_s=10))

    def images(self, labels: dict[str, str]) -> list[Json]:
        """The short form of every image that has all these labels."""
        filters = {"label": [f"{key}={value}" for key, value in labels.items()]}
        found: list[Json] = self._http.json(Call("GET", "/images/json", {"filters": filters}))
        return found

    def pull(self, ref: str, tick: Tick) -> None:
        """Pull an image. Raises PreparationError when no registry gives it to this host."""
        name, colon, tag = ref.rpartition(":")
        if not colon or "/" in tag:
            name, tag = ref, "latest"
        query = {"fromImage": ref} if "@" in ref else {"fromImage": name, "tag": tag}
        trouble = ""
        try:
            with self._http.live(Call("POST", "/images/create", query, timeout_s=60)) as stream:
                pending = b""
                while (data := stream.read(_TICK_S)) != b"":
                    tick()
                    *lines, pending = (pending + (data or b"")).split(b"\n")
                    said = [json.loads(line) for line in lines if line.strip()]
                    trouble = next((str(m["error"]) for m in said if "error" in m), trouble)
        except EngineAnswerError as error:
            trouble = error.message
        if trouble:
            raise PreparationError(
                f"there is no image {ref} on this host, and it cannot be pulled ({trouble}); write "
                "one that `docker images` shows, or pull it first",
                step="source",
                tail=trouble,
            )

    def commit(self, ident: str, config: Json) -> str:
        """Make an image of a container; returns its id. Raises EngineError (disk full too)."""
        made = self._http.json(
            Call(
                "POST",
                "/commit",
                {"container": ident, "pause": "true"},
                config,
                timeout_s=900,
            )
        )
        return str(made["Id"])

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Name an image."""
        self._http.json(
            Call("POST", f"/images/{quote(image)}/tag", {"repo": repository, "tag": tag})
        )

    def remove_image(self, image: str) -> bool:
        """Remove a name of an image, and the image with its last one; none is success.

        False when a container or another image still needs it.
        """
        try:
            self._http.json(Call("DELETE", f"/images/{quote(image, safe='/:')}", timeout_s=120))
        except EngineAnswerError as error:
            if error.status == 409:
                return False
            if error.status != 404:
                raise
        return True

    # ── files ────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def get_archive(self, ident: str, path: str) -> Iterator[IO[bytes]]:
        """A tar stream of ``path`` in a container. Raises EngineAnswerError (404: no such)."""
        call = Call("GET", f"/containers/{ident}/archive", {"path": path}, timeout_s=120)
        with self._http.download(call) as body:
            yield body

    def put_archive(self, ident: str, path: str, tar: bytes) -> None:
        """Unpack a tar into a folder of a container, as root."""
        call = Call(
            "PUT",
            f"/containers/{ident}/archive",
            {"path": path},
            tar,
            content_type="application/x-tar",
            timeout_s=120,
        )
        self._http.json(call)

    # ── the engine ───────────────────────────────────────────────────────────────────────────

    def info(self) -> Json:
        """``docker info``."""
        found: Json = self._http.json(Call("GET", "/info"))
        return found

    def events(self, filters: dict[str, list[str]], stopped: Callable[[], bool]) -> Iterator[Json]:
        """The engine's events from now on, until ``stopped`` says so. Raises EngineError.

        An empty dict comes each second when there was none, so that the caller gets a turn.
        """
        with self._http.live(Call("GET", "/events", {"filters": filters})) as stream:
            pending = b""
            yield {}
            while not stopped():
                data = stream.read(_TICK_S)
                if data == b"":
                    raise EngineError("Docker closed the stream of events")
                if data is None:
                    yield {}
                    continue
                *lines, pending = (pending + data).split(b"\n")
                yield from (json.loads(line) for line in lines if line.strip())

    def _or_none(self, call: Call) -> Json | None:
        try:
            found: Json = self._http.json(call)
        except EngineAnswerError as error:
            if error.status == 404:
                return None
            if error.status == 400 and re.search("invalid reference", error.message):
                return None
            raise
        return found
