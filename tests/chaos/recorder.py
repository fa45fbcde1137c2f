"""Records a run's events: by the test itself, from the engine's event stream, from host files."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from greenroom.core.names import LABEL_CONTAINER, LABEL_INSTALL, LABEL_KIND
from greenroom.core.policy import Phase
from greenroom.core.slotfile import SlotRecord
from tests.chaos import events as ev
from tests.chaos.checker import Violation, check

_ENGINE: dict[str, type[ev.ContainerStarted | ev.ContainerDied | ev.ContainerRemoved]] = {
    "start": ev.ContainerStarted,
    "die": ev.ContainerDied,
    "destroy": ev.ContainerRemoved,
}


class Recorder:
    """Collects events from any thread; ``check`` judges them."""

    def __init__(self) -> None:
        self._events: list[ev.Event] = []
        self._lock = threading.Lock()

    @property
    def events(self) -> tuple[ev.Event, ...]:
        with self._lock:
            return tuple(self._events)

    def record(self, *events: ev.Event) -> None:
        """Add events, in any order: their times count."""
        with self._lock:
            self._events.extend(events)

    def check(self) -> list[Violation]:
        """All violations so far."""
        return check(self.events)

    def slot_files(self, folder: Path) -> None:
        """Record which lease files are there now, and the leases that they hold as grants.

        Call it wherever the test has waited for something, and before ``Finished``.
        """
        now = time.time()
        there = {path.stem: path for path in folder.glob("*.json")}
        known = {e.owner for e in self.events if isinstance(e, ev.Kept) and e.kind == "slot_file"}
        for container in known - there.keys():
            self.record(ev.Kept(now, "slot_file", container, container, present=False))
        for container, path in there.items():
            try:
                record = SlotRecord.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                continue  # removed between the listing and the reading
            if record.kind != "slot":
                continue
            self.record(ev.Kept(now, "slot_file", container, container, present=True))
            self._lease(record, now)

    def _lease(self, record: SlotRecord, now: float) -> None:
        lease = record.lease
        if lease is None:
            return
        self.record(
            ev.Granted(
                now,
                record.pool,
                lease.claim_id,
                record.container,
                lease.token,
                lease.expires_at,
            )
        )
        if lease.ended:
            self.record(ev.EndStep(now, record.container, "token_refused"))
        if record.phase is Phase.ENDED:
            self.record(ev.EndStep(now, record.container, "gate_closed"))

    @contextmanager
    def engine(self, install: str) -> Iterator[None]:
        """Record starts, deaths and removals of this install's slots while the block runs."""
        docker = shutil.which("docker")
        assert docker is not None, "the docker command is needed to listen to the engine"
        listening = subprocess.Popen(
            [
                docker,
                "events",
                f"--since={time.time():.3f}",
                "--filter=type=container",
                f"--filter=label={LABEL_INSTALL}={install}",
                "--format={{json .}}",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        reader = threading.Thread(target=self._read, args=(listening,), daemon=True)
        reader.start()
        try:
            yield
        finally:
            listening.terminate()
            listening.wait(10)
            reader.join(10)
            if listening.stdout is not None:
                listening.stdout.close()

    def _read(self, listening: subprocess.Popen[str]) -> None:
        assert listening.stdout is not None
        for line in listening.stdout:
            self.engine_event(line)

    def engine_event(self, line: str) -> None:
        """Record one line of ``docker events``, if it is about a slot."""
        told = json.loads(line)
        labels = told["Actor"]["Attributes"]
        kind = _ENGINE.get(told["Action"])
        if kind is not None and labels.get(LABEL_KIND) == "slot":
            self.record(kind(told["timeNano"] / 1e9, labels[LABEL_CONTAINER]))
