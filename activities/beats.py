"""When the holder of a lease was last heard of: one empty file per container, and its time."""

from __future__ import annotations

import logging
import os
import socket
import time

from activities.slotfiles import all_slots, read_slot
from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths

_LOG = logging.getLogger(__name__)


def beat(paths: StatePaths, container: str) -> None:
    """Note that the holder is there. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(paths.slot_beat(container), flags, 0o600)
    try:
        os.utime(fd)
    finally:
        os.close(fd)


def last_beat_age(paths: StatePaths, container: str) -> float | None:
    """Seconds since the last heartbeat; None: there was none.

    While the API does not answer nobody can be heard of: then it is 0.
    """
    if not _is_listening(paths):
        return 0.0
    try:
        return max(0.0, time.time() - paths.slot_beat(container).lstat().st_mtime)
    except FileNotFoundError:
        return None


def beat_for_all(paths: StatePaths) -> None:
    """Begin anew for every lease with a heartbeat: for the API's start, before it listens."""
    for container in all_slots(paths):
        try:
            record = read_slot(paths, container)
        except UsageError as error:
            _LOG.warning("no heartbeat for %s: %s", container, error)
            continue
        if record is not None and record.lease is not None and record.lease.heartbeat_s:
            beat(paths, container)


def _is_listening(paths: StatePaths) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(paths.api_socket)) == 0
