"""Drives the activities in the order of the workflows, without Temporal."""

import time
from dataclasses import dataclass

from hosts import Host, Repo

from activities import builders
from activities.containers import Containers, slot_exec
from activities.engine import Output, no_tick
from activities.images import Images
from activities.leases import exec_command
from activities.profiles import new_ident
from activities.repos import look
from activities.slotfiles import read_slot
from greenroom.core.config import PoolConfig
from greenroom.core.messages import ContainerInput
from greenroom.core.orders import (
    BuilderCommit,
    BuilderStep,
    LookInput,
    SlotRef,
    TagInput,
    VerifyInput,
)
from greenroom.core.pool_messages import SnapshotInput
from greenroom.core.records import Lease, SnapshotRecord

Made = tuple[Repo, PoolConfig, SnapshotRecord]
"""A repository, a pool of it, and the pool's snapshot."""


def build_snapshot(host: Host, config: PoolConfig) -> SnapshotRecord:
    """The Snapshot workflow's steps; the builder is removed whatever happens."""
    ctx, registries = host.ctx, host.registries
    source = look(ctx, registries, LookInput(pool=config.name, config=config))
    asked = SnapshotInput(pool=config.name, config=config, source=source)
    images = Images(ctx)
    began = time.time()
    ref = builders.start(ctx, registries, asked)
    try:
        steps = []
        lines = [("system", i) for i in range(len(config.system))] + [("clone", 0)]
        lines += [("install", i) for i in range(len(source.install))]
        lines += [("build", i) for i in range(len(config.build))]
        for name, index in lines:
            step = BuilderStep(builder=ref, step=name, index=index, snapshot=asked)
            steps.append(builders.step(ctx, registries, step))
        image = builders.commit(ctx, BuilderCommit(builder=ref, snapshot=asked))
    finally:
        images.remove_builder(ref)
    proved = images.verify_image(VerifyInput(snapshot=asked, image=image))
    return images.tag_snapshot(
        TagInput(snapshot=asked, image=image, steps=(*steps, *proved.steps), started_at=began)
    )


@dataclass
class Slot:
    """A ready container."""

    asked: ContainerInput
    docker_id: str

    @property
    def container(self) -> str:
        return self.asked.container


def ready_slot(host: Host, config: PoolConfig, snapshot: SnapshotRecord) -> Slot:
    containers = Containers(host.ctx)
    asked = ContainerInput(
        pool=config.name, container=new_ident(), config=config, snapshot=snapshot
    )
    made = containers.create_container(asked)
    containers.clone_in(asked)
    containers.install_in(asked)
    return Slot(asked, made.docker_id)


def lease_of(slot: Slot, token: int = 1, **changes: object) -> Lease:
    now = time.time()
    facts = {
        "claim_id": f"claim-{slot.container.lower()}",
        "pool": slot.asked.pool,
        "container": slot.container,
        "container_workflow": f"greenroom/container/{slot.asked.pool}/{slot.container}",
        "host": "testhost",
        "docker_id": slot.docker_id,
        "commit": slot.asked.snapshot.source.commit,
        "fingerprint": slot.asked.snapshot.source.fingerprint,
        "snapshot_age_s": 0.0,
        "warm": True,
        "waited_s": 0.0,
        "granted_at": now,
        "expires_at": now + 3600,
        "token": token,
    }
    return Lease.model_validate({**facts, **changes})


def remove(host: Host, slot: Slot) -> None:
    Containers(host.ctx).remove_container(SlotRef(pool=slot.asked.pool, container=slot.container))


def sh(host: Host, slot: Slot, script: str) -> Output:
    """Run a script in a slot as a holder's command would run."""
    record = read_slot(host.paths, slot.container)
    assert record is not None
    command = slot_exec(record, exec_command(record, ("sh", "-c", script)))
    return host.ctx.engine.capture(command, no_tick)
