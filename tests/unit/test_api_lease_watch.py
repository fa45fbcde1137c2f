"""While a command is attached: who beats for it, and what it is told of its lease's end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from greenroom.api.lease_watch import watch_lease
from greenroom.api.state import ApiState
from greenroom.core.paths import StatePaths
from greenroom.core.slotfile import HostLease, SlotRecord
from greenroom.metrics import Metrics
from greenroom.services.settings import Decisions, Settings
from tests.workflows.api_lab import FakeHostSide


class Lab:
    """One claimed container, and what was said and beaten while it was watched."""

    def __init__(self, root: Path, *, warn_s: float = 0.0, left_s: float = 60.0) -> None:
        self.host = FakeHostSide(StatePaths(root))
        self.said: asyncio.Queue[str] = asyncio.Queue()
        settings = Settings(StatePaths(root), "0" * 16, "fake", Decisions())
        self.state = ApiState(settings, None, self.host, Metrics())  # type: ignore[arg-type]
        self.slot = SlotRecord(
            container="c", pool="p", warn_s=warn_s,
            lease=HostLease(claim_id="a", token=1, expires_at=time.time() + left_s),
        )  # fmt: skip
        self.change()

    def change(self, **lease: object) -> None:
        assert self.slot.lease is not None
        self.slot = self.slot.model_copy(update={"lease": self.slot.lease.model_copy(update=lease)})
        self.host.slots["c"] = self.slot

    async def watch(self) -> None:
        await watch_lease(self.state, self.slot, self.said.put)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.watch())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def beaten(self, times: int) -> None:
        while True:
            if len(self.host.beats) >= times:
                return
            await asyncio.sleep(0.005)


async def test_a_lease_without_terms_is_not_watched(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    await lab.watch()
    assert (lab.host.beats, lab.said.qsize()) == ([], 0)


async def test_an_attached_command_beats_until_the_lease_is_somebody_elses(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.change(heartbeat_s=0.01)
    async with lab.watched() as task:
        await lab.beaten(3)
        assert set(lab.host.beats) == {"c"}
        lab.change(token=2)
        await task  # the next holder's silence is not covered up
    assert lab.said.empty()


async def test_it_is_told_of_the_end_once_and_of_the_next_end_again(tmp_path: Path) -> None:
    lab = Lab(tmp_path, warn_s=300, left_s=240)
    lab.change(heartbeat_s=0.01)  # looks again as often as it beats
    async with lab.watched():
        line = await lab.said.get()
        assert line.startswith("greenroom: lease ends in 4m; `greenroom extend a --ttl 1h`")
        await lab.beaten(len(lab.host.beats) + 3)
        assert lab.said.empty()
        lab.change(expires_at=time.time() + 299)
        assert (await lab.said.get()).startswith("greenroom: lease ends in 5m")


async def test_an_end_that_is_far_off_is_not_told(tmp_path: Path) -> None:
    lab = Lab(tmp_path, warn_s=300, left_s=3600)
    lab.change(heartbeat_s=0.01)
    async with lab.watched():
        await lab.beaten(3)
        assert lab.said.empty()
