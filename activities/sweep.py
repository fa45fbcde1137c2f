"""Looks at everything of this install on the host, and removes what belongs to nobody."""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from activities.context import HostContext
from activities.engine import Json
from activities.leases import close
from activities.making import detach, take_away
from activities.orphans import Ending, Facts, OwnContainer, Owner, OwnImage, Sweep, decide
from activities.profiles import own_label
from activities.saving import save_work
from activities.slotfiles import all_slots, locked_slot, read_slot, unindex_claim
from activities.snapshots import forget_record, pools_with_records, read_records
from greenroom.core.errors import GreenroomError
from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import EndInput
from greenroom.core.names import (
    LABEL_CONTAINER,
    LABEL_FINGERPRINT,
    LABEL_KIND,
    LABEL_NAMESPACE,
    LABEL_POOL,
    LABEL_WORKFLOW,
)
from greenroom.core.slotfile import SlotRecord
from greenroom.gate.control import GateUnavailable

RETENTION_S = 7 * 86400.0
"""Seconds for which saved work and logs of preparing are kept."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swept:
    """How many of each were removed; ``failed`` are tried again at the next sweep."""

    containers: int = 0
    images: int = 0
    sites: int = 0
    files: int = 0
    failed: int = 0


def gather(ctx: HostContext) -> Facts:
    """Everything but the owners. Raises EngineError, UsageError (a broken file)."""
    sites = _sites(ctx)
    personal = frozenset(_names(ctx.paths.personal_root))
    claims = {name: _text(ctx.paths.claims / name) for name in _names(ctx.paths.claims)}
    containers = tuple(_container(found) for found in ctx.engine.containers(own_label(ctx)))
    recorded = {
        record.image_id
        for pool in pools_with_records(ctx.paths)
        for record in read_records(ctx.paths, pool)
    }
    images = tuple(_image(found, recorded) for found in ctx.engine.images(own_label(ctx)))
    found = ((name, read_slot(ctx.paths, name)) for name in all_slots(ctx.paths))
    records: dict[str, SlotRecord] = {name: record for name, record in found if record is not None}
    return Facts(
        now=time.time(),
        namespace=ctx.namespace_id,
        containers=containers,
        images=images,
        records=records,
        sites=sites,
        personal=personal,
        claims=claims,
    )


def sweep(ctx: HostContext, facts: Facts, owners: dict[str, Owner]) -> Swept:
    """Remove what ``facts`` and ``owners`` show to belong to nobody.

    One that cannot be removed now does not keep the others from going.
    """
    return carry_out(ctx, facts, decide(replace(facts, owners=owners)))


def carry_out(ctx: HostContext, facts: Facts, plan: Sweep) -> Swept:
    """Remove what the plan says."""
    failed = 0
    ended = 0
    for ending in plan.endings:
        try:
            _end(ctx, ending, facts.records.get(ending.container))
            ended += 1
        except GreenroomError as error:
            _LOG.warning("sweep: %s stays for now: %s", ending.container, error.message)
            failed += 1
    for docker_id in plan.docker_ids:
        ctx.engine.remove(docker_id)
    images = 0
    for image in plan.images:
        images += _remove_image(ctx, image)
    for site in plan.sites:
        detach(ctx, site)
    for name in plan.personal:
        ctx.opener.unmount(name)
    for claim in plan.claims:
        unindex_claim(ctx.paths, claim, facts.claims[claim])
    return Swept(
        containers=ended + len(plan.docker_ids),
        images=images,
        sites=len(plan.sites),
        files=len(plan.personal) + len(plan.claims) + _old_files(ctx, facts.now) + _old_locks(ctx),
        failed=failed,
    )


def _end(ctx: HostContext, ending: Ending, record: SlotRecord | None) -> None:
    if ending.save and record is not None and record.lease is not None:
        end = EndInput(
            pool=record.pool,
            container=record.container,
            claim_id=record.lease.claim_id,
            token=record.lease.token,
            reason=EndReason.LOST,
        )
        close(ctx, end)
        if save_work(ctx, end).state == "unsaved":
            return  # the stopped container is the only copy: it stays, marked, for a day
    take_away(ctx, ending.kind, ending.container)


def _remove_image(ctx: HostContext, image: OwnImage) -> int:
    seen = ctx.engine.inspect_image(image.image_id)
    for tag in (seen or {}).get("RepoTags") or []:
        if not ctx.engine.remove_image(tag):
            return 0  # in use; its containers go first
    removed = ctx.engine.remove_image(image.image_id)
    if image.recorded:
        forget_record(ctx.paths, image.pool, image.fingerprint)
    return int(removed)


def _old_files(ctx: HostContext, now: float) -> int:
    """Remove saved work and logs past their time; how many."""
    removed = 0
    for top in (ctx.paths.saved, ctx.paths.evidence):
        for pool in _names(top):
            for name in _names(top / pool):
                path = top / pool / name
                if now - path.lstat().st_mtime <= RETENTION_S:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
                removed += 1
    return removed


def _old_locks(ctx: HostContext) -> int:
    """Remove the locks of lease files that are gone; how many."""
    removed = 0
    for lock in ctx.paths.slots.glob(".*.lock") if ctx.paths.slots.is_dir() else ():
        container = lock.name.removeprefix(".").removesuffix(".lock")
        if ctx.paths.slot(container).exists():
            continue
        with locked_slot(ctx.paths, container) as record:
            if record is None:
                lock.unlink(missing_ok=True)
                removed += 1
    return removed


def _sites(ctx: HostContext) -> frozenset[str]:
    try:
        return frozenset(ctx.gate.list())
    except GateUnavailable:
        return (
            frozenset()
        )  # nothing to compare; it re-attaches from the lease files when it is back


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _container(found: Json) -> OwnContainer:
    labels = found.get("Labels") or {}
    return OwnContainer(
        docker_id=str(found["Id"]),
        kind=str(labels.get(LABEL_KIND, "")),
        container=str(labels.get(LABEL_CONTAINER, "")),
        workflow=str(labels.get(LABEL_WORKFLOW, "")),
        namespace=str(labels.get(LABEL_NAMESPACE, "")),
        created_at=float(found["Created"]),
    )


def _image(found: Json, recorded: set[str]) -> OwnImage:
    labels = found.get("Labels") or {}
    return OwnImage(
        image_id=str(found["Id"]),
        kind=str(labels.get(LABEL_KIND, "")),
        pool=str(labels.get(LABEL_POOL, "")),
        fingerprint=str(labels.get(LABEL_FINGERPRINT, "")),
        workflow=str(labels.get(LABEL_WORKFLOW, "")),
        namespace=str(labels.get(LABEL_NAMESPACE, "")),
        created_at=float(found["Created"]),
        recorded=str(found["Id"]) in recorded,
    )
