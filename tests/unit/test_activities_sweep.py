"""Carrying a sweep out: one failure stops nothing else, and half-written files go."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from activities.context import HostContext
from activities.orphans import Facts, Owner, OwnImage, Sweep
from activities.snapshots import write_record
from activities.sweep import HALF_WRITTEN_S, RETENTION_S, carry_out, sweep
from greenroom.core.errors import EngineError
from greenroom.core.names import snapshot_workflow_id
from greenroom.core.paths import StatePaths
from tests.builders import make_record


class FakeEngine:
    """Removes everything but what ``stuck`` names."""

    def __init__(self) -> None:
        self.stuck: set[str] = set()
        self.removed: list[str] = []

    def remove(self, ident: str) -> None:
        if ident in self.stuck:
            raise EngineError(f"{ident} cannot be removed")
        self.removed.append(ident)

    def inspect_image(self, _image: str) -> None:
        return None

    def remove_image(self, image: str) -> bool:
        self.remove(image)
        return True


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def ctx(tmp_path: Path, engine: FakeEngine) -> HostContext:
    return cast("HostContext", SimpleNamespace(paths=StatePaths(tmp_path), engine=engine))


def image(number: int) -> OwnImage:
    record = make_record(number)
    fingerprint = record.source.fingerprint
    return OwnImage(
        image_id=record.image_id,
        kind="snapshot",
        pool="api",
        fingerprint=fingerprint,
        workflow=snapshot_workflow_id("api", fingerprint),
        namespace="here",
        created_at=time.time(),
        recorded=False,
    )


def test_one_that_cannot_be_removed_keeps_no_other_from_going(
    ctx: HostContext, engine: FakeEngine
) -> None:
    engine.stuck = {"a", image(1).image_id}
    plan = Sweep(docker_ids=("a", "b"), images=(image(1), image(2)))
    swept = carry_out(ctx, Facts(now=time.time(), namespace="here"), plan)
    assert engine.removed == ["b", image(2).image_id]
    assert (swept.containers, swept.images, swept.failed) == (1, 1, 2)


def test_an_image_that_got_its_record_while_owners_were_asked_stays(
    ctx: HostContext, engine: FakeEngine
) -> None:
    kept, orphan = image(1), image(2)
    facts = Facts(now=time.time(), namespace="here", images=(kept, orphan))
    owners = {kept.workflow: Owner.GONE, orphan.workflow: Owner.GONE}
    write_record(ctx.paths, "api", make_record(1))
    assert sweep(ctx, facts, owners).images == 1
    assert engine.removed == [orphan.image_id]


def half_written(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f".{os.urandom(4).hex()}"


PLACES: list[Callable[[StatePaths], Path]] = [
    lambda paths: half_written(paths.slots),
    lambda paths: half_written(paths.claims),
    lambda paths: half_written(paths.saved / "api"),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("age", [HALF_WRITTEN_S - 60, HALF_WRITTEN_S + 60])
def test_what_a_dead_writer_left_goes_once_it_cannot_be_finished(
    ctx: HostContext, place: Callable[[StatePaths], Path], age: float
) -> None:
    path, now = place(ctx.paths), time.time()
    path.mkdir()
    (path / "work.bundle").write_text("x")
    os.utime(path, (now - age, now - age))
    swept = carry_out(ctx, Facts(now=now, namespace="here"), Sweep())
    assert path.exists() is (age < HALF_WRITTEN_S)
    assert swept.files == (age > HALF_WRITTEN_S)


def test_saved_work_stays_for_its_retention(ctx: HostContext) -> None:
    now = time.time()
    for name, age in (("young", RETENTION_S - 60), ("old", RETENTION_S + 60)):
        place = ctx.paths.saved_claim("api", name)
        place.mkdir(parents=True)
        os.utime(place, (now - age, now - age))
    carry_out(ctx, Facts(now=now, namespace="here"), Sweep())
    assert [path.name for path in (ctx.paths.saved / "api").iterdir()] == ["young"]


def test_the_lock_of_a_lease_file_that_is_gone_goes(ctx: HostContext) -> None:
    ctx.paths.slots.mkdir(parents=True)
    ctx.paths.slot_lock("C1").touch()
    ctx.paths.slot_lock("C2").touch()
    ctx.paths.slot("C2").write_text('{"container": "C2", "pool": "api"}')
    facts: dict[str, Any] = {"now": time.time(), "namespace": "here"}
    assert carry_out(ctx, Facts(**facts), Sweep()).files == 1
    assert not ctx.paths.slot_lock("C1").exists()
    assert ctx.paths.slot_lock("C2").exists()
