"""The host's lease files: read, written whole, and changed under a lock.

A lease file is replaced by rename, so a reader sees the old or the new one. Whoever changes one
holds its lock from reading to writing; worker and API are separate processes, so it is a file
lock.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from greenroom.core.errors import UsageError
from greenroom.core.names import check_claim_id
from greenroom.core.paths import StatePaths
from greenroom.core.slotfile import SlotRecord
from greenroom.gate.opener import gate_user

_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def read_slot(paths: StatePaths, container: str) -> SlotRecord | None:
    """The lease file of one container; None when there is none.

    Raises UsageError when it cannot be understood.
    """
    if not _CONTAINER.fullmatch(container):
        return None
    path = paths.slot(container)
    try:
        return SlotRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UsageError(f"{path} is not a lease file: {error.errors()[0]['msg']}") from error


def write_slot(paths: StatePaths, record: SlotRecord) -> None:
    """Replace the lease file of ``record.container``. Raises OSError."""
    paths.slots.mkdir(mode=0o750, parents=True, exist_ok=True)
    path = paths.slot(record.container)
    fresh = path.with_name(f".{record.container}.{secrets.token_hex(4)}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(record.model_dump_json(indent=1).encode())
            if (gid := gate_gid()) is not None:
                os.fchown(fd, -1, gid)
                os.fchmod(fd, 0o640)
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


@contextmanager
def locked_slot(paths: StatePaths, container: str) -> Iterator[SlotRecord | None]:
    """Hold the lock of one lease file; gives its content as it stands. Raises OSError."""
    paths.slots.mkdir(mode=0o750, parents=True, exist_ok=True)
    lock = paths.slot_lock(container)
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if not _is_still(lock, fd):
                continue  # removed with its container while we waited; take the new one
            try:
                yield read_slot(paths, container)
            finally:
                if not paths.slot(container).exists():
                    lock.unlink(missing_ok=True)  # no container, no lock to keep
            return
        finally:
            os.close(fd)


def forget_slot(paths: StatePaths, container: str) -> None:
    """Remove the lease file, its lock and its claim's index entry; none is success."""
    with locked_slot(paths, container) as record:
        if record is not None and record.lease is not None:
            unindex_claim(paths, record.lease.claim_id, container)
        paths.slot_beat(container).unlink(missing_ok=True)
        paths.slot(container).unlink(missing_ok=True)
        paths.slot_lock(container).unlink(missing_ok=True)


def all_slots(paths: StatePaths) -> list[str]:
    """The containers that have a lease file."""
    if not paths.slots.is_dir():
        return []
    return sorted(path.stem for path in paths.slots.glob("[!.]*.json"))


def index_claim(paths: StatePaths, claim_id: str, container: str) -> None:
    """Note which container a claim has. Raises OSError.

    Ids are the pools' own, the index is the host's: while a claim of another pool lives under the
    same id, its entry stays, and who asks by the id alone never gets somebody else's container.
    """
    own, taken = read_slot(paths, container), slot_of_claim(paths, claim_id)
    if own is not None and taken is not None and taken.pool != own.pool and not taken.has_ended:
        return
    paths.claims.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = paths.claims / f".{secrets.token_hex(8)}"
    fresh.write_text(container)
    fresh.replace(paths.claim(check_claim_id(claim_id)))


def unindex_claim(paths: StatePaths, claim_id: str, container: str) -> None:
    """Forget which container a claim has, unless it has another one by now."""
    entry = paths.claim(check_claim_id(claim_id))
    try:
        if entry.read_text() == container:
            entry.unlink()
    except FileNotFoundError:
        return


def slot_of_claim(paths: StatePaths, claim_id: str) -> SlotRecord | None:
    """The lease file of the container that a claim has on this host; None when it has none.

    Raises UsageError for an impossible claim id.
    """
    try:
        container = paths.claim(check_claim_id(claim_id)).read_text()
    except FileNotFoundError:
        return None
    record = read_slot(paths, container)
    if record is None or record.lease is None or record.lease.claim_id != claim_id:
        return None
    return record


@functools.cache
def gate_gid() -> int | None:
    """The group that may read what the gate needs; None when we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        return gate_user().gid
    except LookupError:
        return None


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False
