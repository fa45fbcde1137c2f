"""Looks at everything of this install on the host, and removes what belongs to nobody."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec

from activities.context import HostContext
from activities.engine import Json
from activities.leases import close
from activities.making import detach, take_away
from activities.orphans import Ending, Facts, OwnContainer, Owner, OwnImage, Sweep, decide
from activities.profiles import own_label
from activities.retention import prune_work, work_to_prune
from activities.saving import SUMMARY, save_work
from activities.slotfiles import all_slots, locked_slot, read_slot, unindex_claim
from activities.snapshots import forget_record, pools_with_records, read_records
from greenroom.core.errors import GreenroomError
from greenroom.core.lifecycle import EndReason
from greenroom.core.names import (
    LABEL_CONTAINER,
    LABEL_FINGERPRINT,
    LABEL_KIND,
    LABEL_NAMESPACE,
    LABEL_POOL,
    LABEL_WORKFLOW,
)
from greenroom.core.orders import EndInput
from greenroom.core.slotfile import SlotRecord
from greenroom.gate.control import GateUnavailable

RETENTION_S = 7 * 86400.0
"""Seconds for which logs of preparing are kept, and saved work that has no record."""
HALF_WRITTEN_S = 3600.0
"""Seconds after which nobody can be writing a file any more that has no name yet."""
P = ParamSpec("P")
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
    images = tuple(_image(found) for found in ctx.engine.images(own_label(ctx)))
    found = ((name, read_slot(ctx.paths, name)) for name in all_slots(ctx.paths))
    records: dict[str, SlotRecord] = {name: record for name, record in found if record is not None}
    return Facts(
        now=time.time(),
        namespace=ctx.namespace_id,
        containers=containers,
        images=_marked(ctx, images),
        records=records,
        sites=sites,
        personal=personal,
        claims=claims,
    )


def sweep(ctx: HostContext, facts: Facts, owners: dict[str, Owner]) -> Swept:
    """Remove what ``facts`` and ``owners`` show to belong to nobody.

    One that cannot be removed now does not keep the others from going.
    """
    # Records again, after the owners were asked: a build that ended meanwhile had written its own
    # first, and its image is not one that nobody wants.
    facts = replace(facts, owners=owners, images=_marked(ctx, facts.images))
    return carry_out(ctx, facts, decide(facts))


def carry_out(ctx: HostContext, facts: Facts, plan: Sweep) -> Swept:
    """Remove what the plan says."""
    each = _Each()
    for ending in plan.endings:
        each.go(ending.container, _end, ctx, ending, facts.records.get(ending.container))
    for docker_id in plan.docker_ids:
        each.go(docker_id, ctx.engine.remove, docker_id)
    containers = each.done()
    for image in plan.images:
        each.go(image.image_id, _remove_image, ctx, image)
    images = each.done()
    for site in plan.sites:
        each.go(site, detach, ctx, site)
    sites = each.done()
    for name in plan.personal:
        each.go(name, ctx.opener.unmount, name)
    for claim in plan.claims:
        each.go(claim, unindex_claim, ctx.paths, claim, facts.claims[claim])
    for place, pruned in work_to_prune(ctx.paths, facts.now):
        each.go(str(place), prune_work, place, pruned)
    for path in _old_files(ctx, facts.now):
        each.go(str(path), _remove_file, path)
    for lock in _old_locks(ctx):
        each.go(lock.name, _remove_lock, ctx, lock)
    return Swept(containers, images, sites, each.done(), each.failed)


class _Each:
    """Goes through what is to be removed; what fails is logged, counted and left for later."""

    def __init__(self) -> None:
        self.failed = 0
        self._done = 0

    def go(self, name: str, step: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Remove one; a step that answers False has left it where it is."""
        try:
            self._done += step(*args, **kwargs) is not False
        except (GreenroomError, OSError) as error:
            _LOG.warning("sweep: %s stays for now: %s", name, error)
            self.failed += 1

    def done(self) -> int:
        """How many went since the last time that this was asked."""
        done, self._done = self._done, 0
        return done


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


def _remove_image(ctx: HostContext, image: OwnImage) -> bool:
    seen = ctx.engine.inspect_image(image.image_id)
    for tag in (seen or {}).get("RepoTags") or []:
        if not ctx.engine.remove_image(tag):
            return False  # in use; its containers go first
    removed = ctx.engine.remove_image(image.image_id)
    if image.recorded:
        forget_record(ctx.paths, image.pool, image.fingerprint)
    return removed


def _old_files(ctx: HostContext, now: float) -> Iterator[Path]:
    """Logs and outputs past their time, and what was half written when its writer died."""
    for top in (ctx.paths.saved, ctx.paths.evidence, ctx.paths.tasks):
        for pool in _names(top):
            for path in (top / pool).iterdir() if (top / pool).is_dir() else ():
                if (path / SUMMARY).exists():
                    continue  # finished work has rules of its own
                kept = HALF_WRITTEN_S if path.name.startswith(".") else RETENTION_S
                if _is_older(path, now - kept):
                    yield path
    for folder in (ctx.paths.slots, ctx.paths.claims):
        for path in folder.glob(".*") if folder.is_dir() else ():
            lasting = path.suffix == ".lock" or (
                path.suffix == ".beat" and ctx.paths.slot(_belongs_to(path)).exists()
            )
            if not lasting and _is_older(path, now - HALF_WRITTEN_S):
                yield path


def _is_older(path: Path, then: float) -> bool:
    try:
        return path.lstat().st_mtime < then
    except FileNotFoundError:
        return False  # it has just been finished


def _remove_file(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _old_locks(ctx: HostContext) -> Iterator[Path]:
    """The locks of lease files that are gone."""
    for lock in ctx.paths.slots.glob(".*.lock") if ctx.paths.slots.is_dir() else ():
        if not ctx.paths.slot(_belongs_to(lock)).exists():
            yield lock


def _remove_lock(ctx: HostContext, lock: Path) -> bool:
    with locked_slot(ctx.paths, _belongs_to(lock)) as record:
        if record is None:
            lock.unlink(missing_ok=True)
        return record is None


def _belongs_to(path: Path) -> str:
    """The container of a lock or a heartbeat."""
    return path.name.removeprefix(".").removesuffix(path.suffix)


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


def _marked(ctx: HostContext, images: tuple[OwnImage, ...]) -> tuple[OwnImage, ...]:
    """The images with whether each has a record by now. Raises UsageError (a broken record)."""
    recorded = {
        record.image_id
        for pool in pools_with_records(ctx.paths)
        for record in read_records(ctx.paths, pool)
    }
    return tuple(replace(image, recorded=image.image_id in recorded) for image in images)


def _image(found: Json) -> OwnImage:
    labels = found.get("Labels") or {}
    return OwnImage(
        image_id=str(found["Id"]),
        kind=str(labels.get(LABEL_KIND, "")),
        pool=str(labels.get(LABEL_POOL, "")),
        fingerprint=str(labels.get(LABEL_FINGERPRINT, "")),
        workflow=str(labels.get(LABEL_WORKFLOW, "")),
        namespace=str(labels.get(LABEL_NAMESPACE, "")),
        created_at=float(found["Created"]),
        recorded=False,
    )
