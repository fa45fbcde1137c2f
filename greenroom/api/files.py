"""Files in and out of a claimed container, as streams.

``tar`` and ``cat`` run inside, as the container's own user: whatever links the agent has planted
lead to places that this user may reach anyway, and the host never opens a path of a container.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from greenroom.api.access import HUGE
from greenroom.api.docker_exec import STDERR, STDOUT, DockerExec, ExecSpec
from greenroom.api.leases import usable_slot
from greenroom.api.state import ApiState, State
from greenroom.core.errors import (
    EngineError,
    GreenroomError,
    NotFoundError,
    TooLargeError,
    UsageError,
)
from greenroom.core.slotfile import SlotRecord

router = APIRouter(prefix="/v1/claims")

_PATH_BYTES = 4095
_ERROR_BYTES = 2000
_MISSING, _TOO_LARGE, _WRONG_KIND = 90, 91, 92
"""Exit codes of the scripts below."""
_CHANGED = re.compile(rb"file changed as we read it|[Ff]ile removed before we read it")

# $1 is the path; $2 the most KiB.
_KIB = 'k=$(du -sk -- "$1" 2>/dev/null | head -n 1 | cut -f1); '
_SIZE = _KIB + f'[ "${{k:-0}}" -le "$2" ] || exit {_TOO_LARGE}; '
_THERE = f'[ -e "$1" ] || [ -L "$1" ] || exit {_MISSING}; '
_GET_TAR = _THERE + _SIZE + 'exec tar -c -f - -C "$(dirname -- "$1")" -- "$(basename -- "$1")"'
_GET_FILE = f'{_THERE}[ -f "$1" ] || exit {_WRONG_KIND}; {_SIZE}exec cat -- "$1"'
_PUT_TAR = 'mkdir -p -- "$1" && exec tar -x -f - -C "$1"'
# The file is there as a whole or not at all.
_PUT_FILE = (
    f'[ ! -d "$1" ] || exit {_WRONG_KIND}; mkdir -p -- "$(dirname -- "$1")" || exit 1; '
    't="$1.part-$$"; cat > "$t" && mv -f -- "$t" "$1"'
)


class Form(StrEnum):
    """``tar``: a file or folder with its name, mode and times; ``file``: one file's bytes."""

    TAR = "tar"
    FILE = "file"


class Stored(BaseModel):
    """``size``: bytes that were sent. ``path`` as it was given."""

    claim_id: str
    path: str
    size: int


@dataclass(frozen=True)
class Where:
    """``path`` is relative to the work tree unless it starts with a slash."""

    claim_id: str
    path: str
    form: Form
    token: int | None


def check_path(path: str) -> str:
    """``path`` itself. Raises UsageError when no file can have it."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise UsageError("path is not Unicode text") from None
    if not path or "\0" in path:
        raise UsageError("path is empty or holds a NUL")
    if size > _PATH_BYTES:
        raise UsageError(f"path has {size} bytes, {_PATH_BYTES} are the most")
    return path


@router.get(
    "/{claim_id}/files",
    response_class=StreamingResponse,
    responses={
        200: {
            "content": {"application/x-tar": {}, "application/octet-stream": {}},
            "description": "The archive, or the file's bytes; cut off where reading it fails",
        }
    },
)
async def get_files(
    claim_id: str,
    state: State,
    path: Annotated[str, Query(description="A file or folder, relative to the work tree")],
    form: Annotated[Form, Query(alias="as")] = Form.TAR,
    token: int | None = None,
) -> StreamingResponse:
    """A file or folder of a claimed container."""
    where = Where(claim_id, check_path(path), form, token)
    script = _GET_TAR if form is Form.TAR else _GET_FILE
    running = await _start(state, where, script)
    try:
        await running.command.close_input()
        first = await running.next_output()
        if first is None:
            await running.check(where)
    except BaseException:
        await running.end()
        raise
    kind = "application/x-tar" if form is Form.TAR else "application/octet-stream"
    return StreamingResponse(_pieces(running, where, first), media_type=kind)


@router.put(
    "/{claim_id}/files",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/x-tar": {}, "application/octet-stream": {}},
        }
    },
)
async def put_files(  # noqa: PLR0913, PLR0917 - the parameters of a URL
    claim_id: str,
    state: State,
    request: Request,
    path: Annotated[str, Query(description="tar: the folder to unpack in; file: the file itself")],
    form: Annotated[Form, Query(alias="as")] = Form.TAR,
    token: int | None = None,
) -> Stored:
    """Unpack an archive into a folder, or write one file; missing folders are made."""
    where = Where(claim_id, check_path(path), form, token)
    running = await _start(state, where, _PUT_TAR if form is Form.TAR else _PUT_FILE)
    drained = asyncio.ensure_future(running.drain())
    size = 0
    try:
        async for piece in request.stream():
            size = _counted(size, piece, "the body")
            if drained.done():
                break  # it has failed; its exit code says how
            if piece:
                await running.command.write(piece)
        await running.command.close_input()
        await drained
        await running.check(where)
    except BaseException:
        await running.command.kill()
        raise
    finally:
        drained.cancel()
        await asyncio.gather(drained, return_exceptions=True)
        await running.command.close()
    return Stored(claim_id=claim_id, path=path, size=size)


class _Running:
    """A script that runs in the container, and the end of what it says on standard error."""

    def __init__(self, command: DockerExec) -> None:
        self.command = command
        self._said = bytearray()

    async def next_output(self) -> bytes | None:
        """The next piece of standard output; None at the end."""
        while (piece := await self.command.read()) is not None:
            channel, data = piece
            if channel == STDOUT:
                return data
            if channel == STDERR:
                self._said = (self._said + data)[-_ERROR_BYTES:]
        return None

    async def drain(self) -> None:
        """Read to the end of its output."""
        while await self.next_output() is not None:
            pass

    async def check(self, where: Where) -> None:
        """Raise what its exit code means, if it failed."""
        code = await self.command.exit_code()
        if code == 1 and self._said and all(map(_CHANGED.search, self._said.splitlines())):
            return  # the holder goes on working meanwhile: the archive has what tar saw
        if code:
            raise _failure(code, bytes(self._said), where)

    async def end(self) -> None:
        await self.command.kill()
        await self.command.close()


async def _start(state: ApiState, where: Where, script: str) -> _Running:
    slot = await usable_slot(state, where.claim_id, where.token)
    return _Running(await DockerExec.start(state.engine, _spec(slot, script, where.path)))


def _spec(slot: SlotRecord, script: str, path: str) -> ExecSpec:
    # A leading dash is a name here, never an option.
    plain = f"./{path}" if path.startswith("-") else path
    return ExecSpec(
        container=slot.docker_id,
        command=("/bin/sh", "-c", script, "greenroom", plain, str(HUGE // 1024)),
        user=f"{slot.uid}:{slot.gid}",
        workdir=slot.workdir,
    )


async def _pieces(running: _Running, where: Where, first: bytes | None) -> AsyncIterator[bytes]:
    """The output to its end; an error cuts the answer off, so that it does not pass for whole."""
    sent, piece = 0, first
    try:
        while piece is not None:
            sent = _counted(sent, piece, where.path)
            yield piece
            piece = await running.next_output()
        if first is not None:
            await running.check(where)
    finally:
        await running.end()


def _counted(before: int, piece: bytes, what: str) -> int:
    """The bytes so far. Raises TooLargeError."""
    if before + len(piece) > HUGE:
        raise TooLargeError(f"{what} has more than {HUGE} bytes", limit=HUGE)
    return before + len(piece)


def _failure(code: int, said: bytes, where: Where) -> GreenroomError:
    if code == _MISSING:
        return NotFoundError(f"there is no {where.path} in the container of {where.claim_id}")
    if code == _TOO_LARGE:
        return TooLargeError(f"{where.path} has more than {HUGE} bytes", limit=HUGE)
    if code == _WRONG_KIND:
        return UsageError(f"{where.path} is not a plain file; use as=tar for folders")
    if code == 137:
        return NotFoundError(f"claim {where.claim_id} ended meanwhile")
    text = said.decode(errors="replace").strip()
    if code in (126, 127):
        return EngineError(f"the image of {where.claim_id} lacks sh, tar or cat: {text}")
    return UsageError(f"{where.path}: {text or f'failed with {code}'}")
