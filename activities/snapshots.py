"""The snapshots of this host: a record each, kept beside their images, and their clearing out."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import ValidationError

from activities.context import HostContext
from activities.engine import Json
from activities.profiles import own_label
from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths
from greenroom.core.records import SnapshotRecord

KEPT = 2
"""Newest snapshots of a pool that stay on the host; older ones go once nothing uses them."""
MOST_LAYERS = 60
"""Layers up to which a snapshot may be built upon; the driver ends at about 125."""


def folder(paths: StatePaths, pool: str) -> Path:
    return paths.root / "snapshots" / pool


def read_records(paths: StatePaths, pool: str) -> list[SnapshotRecord]:
    """All records of a pool, newest first. Raises UsageError for one that is broken."""
    found = []
    for path in sorted(folder(paths, pool).glob("[!.]*.json")):
        try:
            found.append(SnapshotRecord.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            raise UsageError(f"{path} is not a snapshot's record; remove it") from error
        except FileNotFoundError:
            continue  # cleared out meanwhile
    return sorted(found, key=lambda record: record.built_at, reverse=True)


def pools_with_records(paths: StatePaths) -> list[str]:
    root = paths.root / "snapshots"
    return sorted(path.name for path in root.iterdir()) if root.is_dir() else []


def write_record(paths: StatePaths, pool: str, record: SnapshotRecord) -> None:
    """Keep a record, replacing one of the same fingerprint. Raises OSError."""
    place = folder(paths, pool)
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = place / f"{record.source.fingerprint}.json"
    fresh = place / f".{secrets.token_hex(4)}"
    fresh.write_text(record.model_dump_json(indent=1))
    fresh.replace(path)


def forget_record(paths: StatePaths, pool: str, fingerprint: str) -> None:
    """Remove a record; none is success."""
    (folder(paths, pool) / f"{fingerprint}.json").unlink(missing_ok=True)


def find_record(ctx: HostContext, pool: str, fingerprint: str) -> SnapshotRecord | None:
    """The record of a snapshot whose image is still there; None otherwise."""
    for record in read_records(ctx.paths, pool):
        if record.source.fingerprint == fingerprint:
            return record if ctx.engine.inspect_image(record.image_id) is not None else None
    return None


def newest_with_dependencies(
    ctx: HostContext, pool: str, dependencies: str
) -> tuple[SnapshotRecord, Json] | None:
    """The newest snapshot (and its image) whose installed dependencies can be built upon."""
    for record in read_records(ctx.paths, pool):
        if record.source.dependencies != dependencies:
            continue
        image = ctx.engine.inspect_image(record.image_id)
        if image is not None and len(image["RootFS"].get("Layers") or ()) < MOST_LAYERS:
            return record, image
    return None


def clear_out(ctx: HostContext, pool: str, kept: int = KEPT) -> int:
    """Remove all but the ``kept`` newest snapshots that no container uses; how many went."""
    used = images_in_use(ctx)
    removed = 0
    for record in read_records(ctx.paths, pool)[kept:]:
        if record.image_id in used:
            continue
        if ctx.engine.remove_image(record.image_tag):
            forget_record(ctx.paths, pool, record.source.fingerprint)
            removed += 1
    return removed


def images_in_use(ctx: HostContext) -> set[str]:
    """Ids of the images from which any of this install's containers was made."""
    return {str(container["ImageID"]) for container in ctx.engine.containers(own_label(ctx))}
