"""Lease files: whole or not at all, changed by one at a time, also across processes."""

import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.slotfiles import (
    all_slots,
    forget_slot,
    index_claim,
    locked_slot,
    read_slot,
    slot_of_claim,
    unindex_claim,
    write_slot,
)
from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths
from greenroom.core.slotfile import HostLease, SlotRecord


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path)


def count_up(root: str, times: int) -> None:
    paths = StatePaths(Path(root))
    for _ in range(times):
        with locked_slot(paths, "C1") as record:
            if record is not None:
                counted = record.model_copy(update={"created_at": record.created_at + 1})
                write_slot(paths, counted)


def test_changes_from_several_processes_are_all_kept(paths: StatePaths) -> None:
    write_slot(paths, SlotRecord(container="C1", pool="p"))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=count_up, args=(str(paths.root), 50)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    record = read_slot(paths, "C1")
    assert record is not None
    assert record.created_at == 200


def test_what_is_written_is_read_and_unknown_fields_survive(paths: StatePaths) -> None:
    record = SlotRecord.model_validate({"container": "C1", "pool": "p", "of_the_future": [1]})
    write_slot(paths, record)
    again = read_slot(paths, "C1")
    assert again == record
    assert again is not None
    write_slot(paths, again.model_copy(update={"pool": "q"}))
    assert '"of_the_future"' in paths.slot("C1").read_text()
    assert paths.slot("C1").stat().st_mode & 0o007 == 0


@given(st.text(max_size=20))
def test_no_name_leads_out_of_the_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    paths = StatePaths(tmp_path_factory.getbasetemp())
    assert read_slot(paths, f"../{name}") is None
    assert read_slot(paths, f"{name}/x") is None


def test_a_broken_file_says_so(paths: StatePaths) -> None:
    paths.slots.mkdir()
    paths.slot("C1").write_text("{")
    with pytest.raises(UsageError, match="is not a lease file"):
        read_slot(paths, "C1")


def test_the_same_id_in_another_pool_does_not_take_over(paths: StatePaths) -> None:
    lease = HostLease(claim_id="k", token=1, expires_at=0)
    write_slot(paths, SlotRecord(container="C1", pool="p", lease=lease))
    write_slot(paths, SlotRecord(container="C2", pool="q", lease=lease))
    index_claim(paths, "k", "C1")
    index_claim(paths, "k", "C2")
    found = slot_of_claim(paths, "k")
    assert found is not None
    assert found.container == "C1"
    ended = lease.model_copy(update={"ended": True})
    write_slot(paths, SlotRecord(container="C1", pool="p", lease=ended))
    index_claim(paths, "k", "C2")
    found = slot_of_claim(paths, "k")
    assert found is not None
    assert found.container == "C2"


def test_the_index_leads_to_the_claims_own_container_only(paths: StatePaths) -> None:
    lease = HostLease(claim_id="k", token=1, expires_at=0)
    write_slot(paths, SlotRecord(container="C1", pool="p", lease=lease))
    index_claim(paths, "k", "C1")
    found = slot_of_claim(paths, "k")
    assert found is not None
    assert found.container == "C1"
    write_slot(paths, SlotRecord(container="C1", pool="p"))
    assert slot_of_claim(paths, "k") is None
    assert slot_of_claim(paths, "unknown") is None
    unindex_claim(paths, "k", "C2")
    assert paths.claim("k").exists()
    unindex_claim(paths, "k", "C1")
    assert not paths.claim("k").exists()
    with pytest.raises(UsageError):
        slot_of_claim(paths, "../up.json")


def test_forgetting_leaves_nothing_and_can_be_repeated(paths: StatePaths) -> None:
    lease = HostLease(claim_id="k", token=1, expires_at=0)
    write_slot(paths, SlotRecord(container="C1", pool="p", lease=lease))
    index_claim(paths, "k", "C1")
    forget_slot(paths, "C1")
    forget_slot(paths, "C1")
    assert all_slots(paths) == []
    assert list(paths.slots.iterdir()) == []
    assert list(paths.claims.iterdir()) == []
