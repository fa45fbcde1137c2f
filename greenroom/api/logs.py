"""What preparing a snapshot or a container printed, and what a container logged."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from fastapi import APIRouter
from pydantic import BaseModel

from greenroom.api import docker_exec
from greenroom.api.state import ApiState, State
from greenroom.core.access import Scope
from greenroom.core.errors import EngineError, NotFoundError, UsageError
from greenroom.core.names import check_claim_id, check_pool_name
from greenroom.core.slotfile import SlotRecord

router = APIRouter(prefix="/v1")

_ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_READ_BYTES = 4 << 20


class LogPart(BaseModel):
    """One log. ``path`` is empty for one that is not a file of the host."""

    name: str
    path: str = ""
    text: str


class Logs(BaseModel):
    pool: str
    container: str = ""
    parts: tuple[LogPart, ...]


@router.get("/logs/{ident}")
async def show(ident: str, state: State, tail: int = 200) -> Logs:
    """The last ``tail`` lines of every log of a claim, a container or a pool (0: all)."""
    if tail < 0:
        raise UsageError("tail must be 0 or more lines")
    slot = await asyncio.to_thread(_slot, state, ident)
    ran = await asyncio.to_thread(_outputs, state, ident, tail)
    if slot is not None and state.grant.sees(slot.pool):
        names = [slot.container, slot.fingerprint]
        parts = await asyncio.to_thread(_files, state.paths.evidence / slot.pool, names, tail)
        own = await _container_log(state, slot, tail)
        return Logs(pool=slot.pool, container=slot.container, parts=(*parts, *own, *ran))
    if ran:
        return Logs(pool=Path(ran[0].path).relative_to(state.paths.tasks).parts[0], parts=ran)
    found = await asyncio.to_thread(_evidence, state, ident, tail)
    if found is None or not state.grant.sees(found.pool):
        raise NotFoundError(f"no claim, container or pool {ident} with a log")
    return found


def _slot(state: ApiState, ident: str) -> SlotRecord | None:
    check_claim_id(ident)
    found = state.host.slot_of_claim(ident)
    if found is None and _ULID.fullmatch(ident):
        found = state.host.slot(ident)
    return found


def _outputs(state: ApiState, claim_id: str, tail: int) -> tuple[LogPart, ...]:
    """What a claim's Task and hooks printed: for those who could run the command themselves."""
    if not state.grant.scope.contains(Scope.CLAIM):
        return ()
    return tuple(
        LogPart(
            name=path.name if path.parent.name == claim_id else f"{path.parent.name} {path.name}",
            path=str(path),
            text=last_lines(_end(path), tail),
        )
        for folder in sorted(state.paths.tasks.glob(f"*/{claim_id}"))
        if state.grant.sees(folder.parent.name)
        for path in sorted((*folder.glob("std*"), *folder.glob("hook-*/std*")))
        if path.stat().st_size
    )


def _evidence(state: ApiState, ident: str, tail: int) -> Logs | None:
    """Logs of what has no record: a container that is gone, a pool's newest snapshot."""
    if _ULID.fullmatch(ident):
        for folder in state.paths.evidence.glob("*"):
            parts = _files(folder, [ident], tail)
            if parts:
                return Logs(pool=folder.name, container=ident, parts=parts)
        return None
    try:
        folder = state.paths.evidence / check_pool_name(ident)
    except UsageError:
        return None
    logs = [path for path in folder.glob("*.log") if not _ULID.fullmatch(path.stem)]
    newest = sorted(logs, key=lambda path: path.stat().st_mtime)[-1:]
    parts = _files(folder, [path.stem for path in newest], tail)
    return Logs(pool=ident, parts=parts) if parts else None


def _files(folder: Path, names: list[str], tail: int) -> tuple[LogPart, ...]:
    found = []
    for name in names:
        path = folder / f"{name}.log"
        if name and path.is_file():
            kind = "container" if _ULID.fullmatch(name) else "snapshot"
            found.append(LogPart(name=kind, path=str(path), text=last_lines(_end(path), tail)))
    return tuple(found)


def _end(path: Path) -> str:
    with path.open("rb") as source:
        source.seek(max(0, path.stat().st_size - _READ_BYTES))
        return source.read().decode(errors="replace")


async def _container_log(state: ApiState, slot: SlotRecord, tail: int) -> tuple[LogPart, ...]:
    lines = str(tail) if tail else "all"
    query = f"/containers/{slot.docker_id}/logs?stdout=1&stderr=1&tail={lines}"
    try:
        raw = await docker_exec.text(state.engine, query)
    except (NotFoundError, EngineError):
        return ()  # gone, or its log cannot be read: the files say what they say
    text = plain(raw).decode(errors="replace")
    return (LogPart(name="docker", text=text),) if text else ()


def plain(raw: bytes) -> bytes:
    """The content of the engine's frames (8 bytes of header each), without their channels."""
    pieces, at = [], 0
    while at + 8 <= len(raw):
        size = int.from_bytes(raw[at + 4 : at + 8], "big")
        pieces.append(raw[at + 8 : at + 8 + size])
        at += 8 + size
    return b"".join(pieces)


def last_lines(text: str, tail: int) -> str:
    """The last ``tail`` lines; all for 0."""
    if tail == 0:
        return text
    return "".join(text.splitlines(keepends=True)[-tail:])
