"""What ended claims left on this host: listed, shown, handed out, deleted."""

from __future__ import annotations

import asyncio
import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from activities.saving import FILES, SUMMARY
from activities.slotfiles import all_slots, read_slot
from greenroom.api.state import ApiState, State
from greenroom.core.errors import NotFoundError
from greenroom.core.names import check_claim_id, check_pool_name
from greenroom.core.records import Done, SavedWork

router = APIRouter(prefix="/v1/saved")

_PIECE = 256 * 1024
_LINES = 1000
"""Lines of each list that ``show`` gives."""


class SavedClaim(SavedWork):
    """What an ended claim left. ``saved_at`` in epoch seconds; ``base`` is where it began.

    For ``unsaved`` work ``docker_id`` and ``workdir`` say in which stopped container it is.
    """

    pool: str
    claim_id: str
    saved_at: float
    reason: str = ""
    base: str = ""
    container: str = ""
    docker_id: str = ""
    workdir: str = ""


class ShownWork(SavedClaim):
    """With the first lines of each list. ``changed_files``: a letter of git's, a tab, a name."""

    size_bytes: int
    commit_lines: list[str]
    changed_files: list[str]
    ignored_files: list[str]


@router.get("", response_model=list[SavedClaim])
async def list_saved(state: State, claim: str = "") -> list[dict[str, Any]]:
    """What ended claims left, newest first; of one claim when it is named."""
    return await asyncio.to_thread(saved_work, state, claim)


@router.get("/{pool}/{claim_id}", response_model=ShownWork)
async def show_saved(pool: str, claim_id: str, state: State) -> dict[str, Any]:
    """The record of one claim's work, with its commits, changed and ignored files.

    Raises NotFoundError, UsageError.
    """
    return await asyncio.to_thread(_shown, state, pool, claim_id)


@router.get("/{pool}/{claim_id}/export", response_class=StreamingResponse)
async def export_saved(pool: str, claim_id: str, state: State) -> StreamingResponse:
    """Everything that was kept of one claim, as a .tar.gz. Raises NotFoundError, UsageError."""
    packed = await asyncio.to_thread(_packed, state, pool, claim_id)
    return StreamingResponse(_pieces(packed), media_type="application/gzip")


@router.delete("/{pool}/{claim_id}")
async def delete_saved(pool: str, claim_id: str, state: State) -> Done:
    """Forget what one claim left. Raises NotFoundError, UsageError."""
    place = _place(state, pool, claim_id)
    await asyncio.to_thread(shutil.rmtree, place)
    return Done()


def saved_work(state: ApiState, claim_id: str = "") -> list[dict[str, Any]]:
    """The records of saved work on this host, newest first. Raises UsageError."""
    name = check_claim_id(claim_id) if claim_id else "*"
    found = _unsaved(state, claim_id)
    for record in state.paths.saved.glob(f"*/{name}/{SUMMARY}"):
        if not state.grant.sees(record.parent.parent.name):
            continue
        try:
            found.append(_record(record.parent))
        except FileNotFoundError:
            continue  # collected at this moment
    return sorted(found, key=lambda item: -item["saved_at"])


def _unsaved(state: ApiState, claim_id: str) -> list[dict[str, Any]]:
    """Claims whose work could not be saved: their stopped containers are kept for a day."""
    found = []
    for container in all_slots(state.paths):
        record = read_slot(state.paths, container)
        if record is None or not record.unsaved or record.lease is None:
            continue
        if claim_id in {"", record.lease.claim_id} and state.grant.sees(record.pool):
            found.append(
                {
                    "state": "unsaved",
                    "detail": record.unsaved,
                    "claim_id": record.lease.claim_id,
                    "pool": record.pool,
                    "container": record.container,
                    "docker_id": record.docker_id,
                    "workdir": record.workdir,
                    "reason": record.lease.end_reason,
                    "saved_at": state.paths.slot(container).stat().st_mtime,
                }
            )
    return found


def _record(place: Path) -> dict[str, Any]:
    """A claim's record. Raises FileNotFoundError."""
    summary = place / SUMMARY
    told: dict[str, Any] = json.loads(summary.read_text())
    return {
        **told,
        "pool": place.parent.name,
        "claim_id": place.name,
        "saved_at": summary.stat().st_mtime,
    }


def _place(state: ApiState, pool: str, claim_id: str) -> Path:
    place = state.paths.saved_claim(check_pool_name(pool), check_claim_id(claim_id))
    if not (place / SUMMARY).is_file():
        raise NotFoundError(f"nothing is saved of claim {claim_id} in pool {pool}")
    return place


def _shown(state: ApiState, pool: str, claim_id: str) -> dict[str, Any]:
    place = _place(state, pool, claim_id)
    return {
        **_record(place),
        "size_bytes": sum(path.lstat().st_size for path in place.iterdir()),
        "commit_lines": _lines(place / "commits.txt"),
        "changed_files": _lines(place / "changed.txt"),
        "ignored_files": _lines(place / "ignored.txt"),
    }


def _lines(path: Path) -> list[str]:
    try:
        with path.open(errors="replace") as stream:
            return [line.rstrip("\n") for line, _ in zip(stream, range(_LINES), strict=False)]
    except FileNotFoundError:
        return []


def _packed(state: ApiState, pool: str, claim_id: str) -> IO[bytes]:
    place = _place(state, pool, claim_id)
    packed = tempfile.TemporaryFile(dir=state.paths.root)  # noqa: SIM115 - closed by its reader
    try:
        # Bundles are compressed already.
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
            for name in sorted({*FILES, SUMMARY}):
                if (place / name).is_file():
                    archive.add(place / name, arcname=name, filter=_anonymous)
        packed.seek(0)
    except BaseException:
        packed.close()
        raise
    return packed


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _pieces(packed: IO[bytes]) -> Iterator[bytes]:
    with packed:
        while piece := packed.read(_PIECE):
            yield piece
