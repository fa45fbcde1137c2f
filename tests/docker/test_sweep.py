"""The sweep on the real engine: what belongs to nobody goes, everything else stays."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, Repo, pool_config
from making import Slot, build_snapshot, lease_of, ready_slot, remove, sh

from activities import builders
from activities.leases import Personal, arm
from activities.orphans import Owner, owners_to_ask
from activities.profiles import Labels, Shape, builder, docker_name, new_ident
from activities.repos import look
from activities.slotfiles import all_slots, index_claim, read_slot, write_slot
from activities.snapshots import find_record
from activities.sweep import Swept, gather, sweep
from greenroom.core.config import Limits, PoolConfig
from greenroom.core.names import keeper_id
from greenroom.core.orders import LookInput
from greenroom.core.pool_messages import SnapshotInput
from greenroom.core.records import SnapshotRecord

pytestmark = pytest.mark.docker
Made = tuple[PoolConfig, SnapshotRecord]


@pytest.fixture(scope="module")
def made(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Made:
    repo = Repo(tmp_path_factory.mktemp("sweep") / "source")
    repo.commit({"hello.txt": "hello\n", ".gitignore": "built/\n"})
    config = pool_config(str(repo.path), name="swept")
    return config, build_snapshot(host, config)


@pytest.fixture
def slot(host: Host, made: Made) -> Iterator[Slot]:
    ready = ready_slot(host, *made)
    yield ready
    remove(host, ready)


def swept(host: Host, answer: Owner, *gone: str) -> Swept:
    """Sweep with every workflow in one state, but for those named, which are gone."""
    facts = gather(host.ctx)
    owners = dict.fromkeys(owners_to_ask(facts), answer)
    return sweep(host.ctx, facts, {**owners, **dict.fromkeys(gone, Owner.GONE)})


def workflow(host: Host, container: str) -> str:
    record = read_slot(host.paths, container)
    assert record is not None
    return record.workflow_id


@pytest.mark.parametrize("answer", [Owner.OPEN, Owner.UNKNOWN])
def test_nothing_goes_whose_workflow_lives_or_is_not_known(
    host: Host, slot: Slot, answer: Owner
) -> None:
    assert swept(host, answer) == Swept()
    assert sh(host, slot, "git rev-parse HEAD").code == 0


def test_a_slot_whose_workflow_is_gone_goes_whole(host: Host, slot: Slot) -> None:
    assert swept(host, Owner.OPEN, workflow(host, slot.container)).containers == 1
    assert host.ctx.engine.inspect(slot.docker_id) is None
    assert slot.container not in all_slots(host.paths)
    assert slot.container not in host.ctx.gate.list()
    assert not host.paths.personal(slot.container).exists()
    assert swept(host, Owner.OPEN) == Swept()


def test_a_claimed_one_stays_until_its_lease_ends_and_then_leaves_its_work(
    host: Host, slot: Slot
) -> None:
    lease = lease_of(slot)
    arm(host.ctx, lease, Personal())
    sh(host, slot, "echo mine > mine.txt")
    owner = workflow(host, slot.container)
    assert swept(host, Owner.OPEN, owner) == Swept()
    record = read_slot(host.paths, slot.container)
    assert record is not None
    assert record.lease is not None
    over = record.lease.model_copy(update={"expires_at": 1.0})
    write_slot(host.paths, record.model_copy(update={"lease": over}))
    assert swept(host, Owner.OPEN, owner).containers == 1
    assert host.ctx.engine.inspect(slot.docker_id) is None
    assert (host.paths.saved_claim("swept", lease.claim_id) / "work.patch").exists()


def test_an_object_of_another_namespace_is_never_touched(host: Host, slot: Slot) -> None:
    facts = gather(host.ctx)
    elsewhere = type(facts)(**{**vars(facts), "namespace": "another-namespace"})
    assert not owners_to_ask(elsewhere)
    owners = dict.fromkeys(owners_to_ask(facts), Owner.GONE)
    assert sweep(host.ctx, elsewhere, owners) == Swept()
    assert host.ctx.engine.inspect(slot.docker_id) is not None


def test_a_lease_file_without_a_container_goes_with_what_hangs_on_it(
    host: Host, slot: Slot
) -> None:
    owner = workflow(host, slot.container)
    host.ctx.engine.remove(slot.docker_id)
    assert swept(host, Owner.OPEN, owner).containers == 1
    assert slot.container not in all_slots(host.paths)
    assert not host.paths.personal(slot.container).exists()


def test_what_has_lost_its_lease_file_goes(host: Host, slot: Slot) -> None:
    index_claim(host.paths, "somebody", slot.container)
    owner = workflow(host, slot.container)
    host.paths.slot(slot.container).unlink()
    result = swept(host, Owner.OPEN)
    assert result.sites == 1
    assert not host.paths.claim("somebody").exists()
    assert host.ctx.engine.inspect(slot.docker_id) is not None  # its workflow is open
    assert swept(host, Owner.OPEN, owner).containers == 1
    assert host.ctx.engine.inspect(slot.docker_id) is None
    assert swept(host, Owner.OPEN) == Swept()
    assert not host.paths.personal(slot.container).exists()


def test_a_builder_and_an_untagged_image_go_with_their_workflow(host: Host, made: Made) -> None:
    config = made[0].model_copy(update={"build": ("echo other > built/out",)})
    source = look(host.ctx, host.registries, LookInput(pool="swept", config=config))
    asked = SnapshotInput(pool="swept", config=config, source=source)
    ref = builders.start(host.ctx, host.registries, asked)
    owner = workflow(host, ref.builder)
    image = host.ctx.engine.commit(
        ref.docker_id, {"Labels": {"greenroom.kind": "snapshot", "greenroom.workflow": owner}}
    )
    assert swept(host, Owner.OPEN) == Swept()
    assert swept(host, Owner.OPEN, owner).containers == 1
    assert host.ctx.engine.inspect(ref.docker_id) is None
    swept(host, Owner.OPEN, owner)
    assert host.ctx.engine.inspect_image(image) is None


def test_savers_go_with_their_workflow(host: Host, slot: Slot) -> None:
    owner = workflow(host, slot.container)
    labels = Labels("swept", "saver", slot.container, owner)
    shape = Shape("greenroom/base", labels, Limits.model_validate({}))
    name = docker_name(host.ctx, "saver", new_ident())
    host.ctx.engine.create(name, builder(host.ctx, shape))
    assert swept(host, Owner.OPEN) == Swept()
    swept(host, Owner.OPEN, owner)
    assert host.ctx.engine.inspect(name) is None


def test_a_pools_snapshots_go_with_its_keeper_once_nothing_uses_them(
    host: Host, tmp_path: Path
) -> None:
    repo = Repo(tmp_path / "source")
    repo.commit({"hello.txt": "hello\n", ".gitignore": "built/\n"})
    config = pool_config(str(repo.path), name="deleted")
    record = build_snapshot(host, config)
    ready = ready_slot(host, config, record)
    keeper = keeper_id("deleted")
    assert swept(host, Owner.OPEN, keeper).images == 0
    remove(host, ready)
    assert swept(host, Owner.OPEN, keeper).images == 1
    assert host.ctx.engine.inspect_image(record.image_id) is None
    assert find_record(host.ctx, "deleted", record.source.fingerprint) is None
