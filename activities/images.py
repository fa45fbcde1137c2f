"""Makes snapshots: a builder, the recipe's lines in it, an image, proved as users get it."""

from __future__ import annotations

import time

from temporalio import activity

from activities import builders
from activities.boundary import beating, boundary
from activities.builders import remove_leftovers
from activities.checkout import checkout_of
from activities.containers import plan_slot, slot_exec
from activities.context import HostContext
from activities.making import Making, make, take_away
from activities.profiles import new_ident
from activities.registries import Registries
from activities.snapshots import clear_out, find_record, write_record
from activities.steps import Line, run_line
from greenroom.core.errors import PreparationError
from greenroom.core.messages import ContainerInput
from greenroom.core.names import image_tag
from greenroom.core.orders import (
    BuilderCommit,
    BuilderRef,
    BuilderStep,
    CommittedImage,
    FoundSnapshot,
    TagInput,
    VerifiedImage,
    VerifyInput,
)
from greenroom.core.policy import Phase
from greenroom.core.pool_messages import SnapshotInput
from greenroom.core.records import Done, SnapshotRecord, StepRecord
from greenroom.core.slotfile import SlotRecord


class Images:
    """Activities on snapshots."""

    def __init__(self, ctx: HostContext) -> None:
        self._ctx = ctx
        self._registries = Registries(ctx.settings, ctx.engine)

    @activity.defn(name="find_snapshot", no_thread_cancel_exception=True)
    @boundary
    def find_snapshot(self, asked: SnapshotInput) -> FoundSnapshot:
        """A verified image of this fingerprint, when it is on this host."""
        return FoundSnapshot(record=find_record(self._ctx, asked.pool, asked.source.fingerprint))

    @activity.defn(name="start_builder", no_thread_cancel_exception=True)
    @boundary
    def start_builder(self, asked: SnapshotInput) -> BuilderRef:
        """Make the builder behind its gate. Raises PreparationError, EngineError, GateError."""
        with beating():
            return builders.start(self._ctx, self._registries, asked)

    @activity.defn(name="builder_step", no_thread_cancel_exception=True)
    @boundary
    def builder_step(self, asked: BuilderStep) -> StepRecord:
        """Run one line of the recipe. Raises PreparationError, StepTimeoutError."""
        with beating():
            return builders.step(self._ctx, self._registries, asked)

    @activity.defn(name="commit_builder", no_thread_cancel_exception=True)
    @boundary
    def commit_builder(self, asked: BuilderCommit) -> CommittedImage:
        """Make an image of the builder. Raises PreparationError, EngineError."""
        with beating():
            return builders.commit(self._ctx, asked)

    @activity.defn(name="verify_image", no_thread_cancel_exception=True)
    @boundary
    def verify_image(self, asked: VerifyInput) -> VerifiedImage:
        """Prove an image in a container as a claim gets it; the image goes when it fails.

        Raises PreparationError, StepTimeoutError.
        """
        with beating():
            try:
                return verify(self._ctx, self._registries, asked)
            except PreparationError:
                self._ctx.engine.remove_image(asked.image.image_id)
                raise

    @activity.defn(name="tag_snapshot", no_thread_cancel_exception=True)
    @boundary
    def tag_snapshot(self, asked: TagInput) -> SnapshotRecord:
        """Name the image, keep its record, clear out old snapshots. Raises EngineError."""
        with beating():
            source, pool = asked.snapshot.source, asked.snapshot.pool
            tag = image_tag(self._ctx.settings.install_id, pool, source.fingerprint)
            repository, _, name = tag.rpartition(":")
            self._ctx.engine.tag(asked.image.image_id, repository, name)
            now = time.time()
            record = SnapshotRecord(
                source=source,
                image_id=asked.image.image_id,
                image_tag=tag,
                built_at=now,
                seconds=round(now - asked.started_at, 3),
                size_bytes=asked.image.size_bytes,
                steps=asked.steps,
            )
            write_record(self._ctx.paths, pool, record)
            clear_out(self._ctx, pool)
            return record

    @activity.defn(name="remove_builder", no_thread_cancel_exception=True)
    @boundary
    def remove_builder(self, asked: BuilderRef) -> Done:
        """Take the builder away; one that is gone is success."""
        take_away(self._ctx, "builder", asked.builder)
        return Done()


def verify(ctx: HostContext, registries: Registries, asked: VerifyInput) -> VerifiedImage:
    """What ``verify_image`` does, but for the image's removal."""
    snapshot = asked.snapshot
    remove_leftovers(ctx, "verify", (snapshot.pool, snapshot.source.fingerprint))
    candidate = SnapshotRecord(
        source=snapshot.source,
        image_id=asked.image.image_id,
        image_tag="",
        built_at=0.0,
        seconds=0.0,
    )
    slot = ContainerInput(
        pool=snapshot.pool, container=new_ident(), config=snapshot.config, snapshot=candidate
    )
    record = plan_slot(ctx, registries, slot).model_copy(
        update={"kind": "verify", "phase": Phase.CLAIMED}
    )
    try:
        made = make(ctx, Making(record, snapshot.config.limits))
        return VerifiedImage(steps=_prove(ctx, snapshot, made))
    finally:
        take_away(ctx, "verify", record.container)


def _prove(ctx: HostContext, snapshot: SnapshotInput, record: SlotRecord) -> tuple[StepRecord, ...]:
    config, source = snapshot.config, snapshot.source
    log = ctx.paths.build_log(snapshot.pool, source.fingerprint)
    lines = [
        Line(
            step="verify",
            text=f"the work tree is at {source.commit[:12]}",
            command=slot_exec(record, checkout_of(config, source).command()),
            limit_s=config.timeouts.clone,
            log=log,
        )
    ]
    for text in config.verify:
        command = slot_exec(record, ("/bin/sh", "-ec", text), config.env)
        lines.append(Line("verify", text, command, config.timeouts.verify, log))
    return tuple(
        StepRecord(name="verify", line=line.text, seconds=round(run_line(ctx, line), 3))
        for line in lines
    )
