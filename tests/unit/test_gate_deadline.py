"""A lease's end closes the gate by itself, when nobody is there to tell it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from greenroom.core.paths import StatePaths
from greenroom.core.policy import Phase
from greenroom.core.slotfile import HostLease, SlotRecord
from greenroom.gate.connect import Outside
from greenroom.gate.decisions import Books
from greenroom.gate.server import Gate
from greenroom.gate.site import Site, Surroundings


class Seen(Site):
    """Says when it was closed."""

    def apply(self, record: SlotRecord) -> None:
        super().apply(record)
        if record.phase is Phase.ENDED:
            ended.set()


ended = asyncio.Event()


def write(paths: StatePaths, left: float, phase: Phase = Phase.CLAIMED) -> SlotRecord:
    lease = HostLease(claim_id="claim", token=1, expires_at=time.time() + left)
    record = SlotRecord(container="c1", pool="p", phase=phase, lease=lease)
    paths.slot("c1").write_text(record.model_dump_json())
    return record


@pytest_asyncio.fixture
async def gate(tmp_path: Path) -> AsyncIterator[tuple[Gate, StatePaths, Site]]:
    global ended  # noqa: PLW0603  (an event belongs to a test's own loop)
    ended = asyncio.Event()
    paths = StatePaths(tmp_path)
    paths.slots.mkdir()
    books = Books(write=lambda _: None)
    made = Gate(paths, Outside(), books)
    around = Surroundings(Outside(), books, paths.mirrors, lambda _: None)
    site = Seen(write(paths, 3600), around, {})
    made._sites["c1"] = site
    yield made, paths, site
    await made.close()
    assert not made._ends


Lab = tuple[Gate, StatePaths, Site]


async def test_at_the_end_of_a_lease_the_gate_closes_by_itself(gate: Lab) -> None:
    made, paths, site = gate
    write(paths, 0.05)
    made.apply("c1")
    assert site.record.phase is Phase.CLAIMED
    await asyncio.wait_for(ended.wait(), 20)
    assert site.record.phase is Phase.ENDED


async def test_an_extended_lease_goes_on_and_one_extended_too_late_comes_back(gate: Lab) -> None:
    made, paths, site = gate
    write(paths, 30)
    made.apply("c1")
    write(paths, 3600)  # only the file: the gate looks again by itself
    made._look_again("c1")
    assert site.record.phase is Phase.CLAIMED
    assert made._ends["c1"].when() > asyncio.get_running_loop().time() + 3000
    write(paths, -1)
    made._look_again("c1")
    assert site.record.phase is Phase.ENDED
    write(paths, 3600)
    made.apply("c1")
    assert site.record.phase is Phase.CLAIMED


async def test_a_lease_file_that_cannot_be_read_at_the_end_closes_too(gate: Lab) -> None:
    made, paths, site = gate
    made.apply("c1")
    paths.slot("c1").write_text("{")
    made._look_again("c1")
    assert site.record.phase is Phase.ENDED


async def test_only_claimed_containers_have_a_deadline(gate: Lab) -> None:
    made, paths, site = gate
    write(paths, -1, Phase.PARKED)
    made.apply("c1")
    assert site.record.phase is Phase.PARKED
    assert not made._ends
