"""Makes a container together with all that stands around it on the host, and takes all away.

The lease file comes first and goes last, so that whatever is there can be found by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from activities.context import HostContext
from activities.engine import Json
from activities.profiles import Labels, Shape, builder, docker_name, hardened, size_mib
from activities.slotfiles import forget_slot, locked_slot, read_slot, write_slot
from greenroom.core.config import Limits
from greenroom.core.errors import EngineError, GateError, PreparationError
from greenroom.core.names import container_workflow_id, snapshot_workflow_id
from greenroom.core.policy import Phase
from greenroom.core.slotfile import SlotRecord
from greenroom.gate.control import GateUnavailable
from greenroom.gate.personal import TmpfsSpec


@dataclass(frozen=True)
class Making:
    """A container to make: its lease file as it shall be, its image, its limits."""

    record: SlotRecord
    limits: Limits

    @property
    def workflow(self) -> str:
        return workflow_of(self.record)


def workflow_of(record: SlotRecord) -> str:
    """The workflow that a container belongs to."""
    if record.kind == "slot":
        return container_workflow_id(record.pool, record.container)
    return snapshot_workflow_id(record.pool, record.fingerprint)


def make(ctx: HostContext, making: Making) -> SlotRecord:
    """Make, start and attach a container; returns its lease file. Idempotent by its name.

    What an interrupted try left is used when it is whole, else removed and made again. Raises
    EngineError, GateError, PreparationError.
    """
    wanted = making.record
    found = _usable(ctx, wanted)
    if found is None:
        take_away(ctx, wanted.kind, wanted.container)
        found = _make(ctx, making)
    try:
        ctx.gate.attach(found.container)
    except GateError as error:
        if not isinstance(error, GateUnavailable):
            raise PreparationError(f"the gate refused: {error.message}", step="create") from error
        raise
    return found


def take_away(ctx: HostContext, kind: str, container: str) -> None:
    """Close, remove and forget a container and its host files; what is gone is success.

    Raises EngineError, GateError (opener).
    """
    with locked_slot(ctx.paths, container) as record:
        if record is not None and record.phase is not Phase.ENDED:
            write_slot(ctx.paths, record.model_copy(update={"phase": Phase.ENDED}))
    detach(ctx, container)
    ctx.engine.remove(docker_name(ctx, kind, container))
    ctx.opener.unmount(container)
    forget_slot(ctx.paths, container)


def detach(ctx: HostContext, container: str) -> None:
    """Close a container's listeners."""
    try:
        ctx.gate.detach(container)
    except GateUnavailable:
        # A gate that is down has closed everything, and opens nothing for an ended record; one
        # that only hung is caught by the sweep, which compares its list with the lease files.
        return


def _usable(ctx: HostContext, wanted: SlotRecord) -> SlotRecord | None:
    record = read_slot(ctx.paths, wanted.container)
    if record is None or not record.docker_id or not record.sandbox_key:
        return None
    seen = ctx.engine.inspect(docker_name(ctx, wanted.kind, wanted.container))
    whole = (
        seen is not None
        and seen["Id"] == record.docker_id
        and seen["Image"] == wanted.image_id
        and seen["State"]["Running"]
        and record.phase is wanted.phase
    )
    return record if whole else None


def _make(ctx: HostContext, making: Making) -> SlotRecord:
    record = making.record.model_copy(
        update={
            "namespace_id": ctx.namespace_id,
            "workflow_id": making.workflow,
            "created_at": time.time(),
        }
    )
    write_slot(ctx.paths, record)
    hosted = record.kind != "builder"
    if hosted:
        spec = TmpfsSpec(uid=record.uid, gid=record.gid, size_mib=size_mib(making.limits))
        ctx.opener.mount(record.container, spec)
    shape = Shape(
        image=record.image_id,
        labels=Labels(
            record.pool, record.kind, record.container, making.workflow, record.fingerprint
        ),
        limits=making.limits,
        hosts=record.hosts,
        user=f"{record.uid}:{record.gid}" if hosted else "",
        workdir=record.workdir,
        personal=ctx.paths.personal(record.container) if hosted else None,
    )
    profile: Callable[[HostContext, Shape], Json] = hardened if hosted else builder
    name = docker_name(ctx, record.kind, record.container)
    ident = ctx.engine.create(name, profile(ctx, shape))
    ctx.engine.start(ident)
    seen = ctx.engine.inspect(ident)
    if seen is None or not seen["State"]["Running"]:
        raise EngineError(f"container {name} did not stay up")
    record = record.model_copy(
        update={"docker_id": ident, "sandbox_key": str(seen["NetworkSettings"]["SandboxKey"])}
    )
    write_slot(ctx.paths, record)
    return record
