"""Sockets that belong to a container's network namespace (the opener's half of the work).

Standard library only, single thread: a namespace belongs to a thread. What to open comes from
the root-written record, never from the caller.
"""

from __future__ import annotations

import errno
import ipaddress
import json
import os
import re
import socket
import stat
import sys
from pathlib import Path
from typing import Any, NoReturn

from greenroom.core.paths import StatePaths
from greenroom.gate import syscalls

_MAX_LISTENERS = 1024
_MAX_RECORD = 1 << 20
_LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
_SANDBOX = re.compile(r"/(?:var/)?run/docker/netns/[A-Za-z0-9_-]{1,64}")


class RefusedError(Exception):
    """A request that is not carried out; ``code`` travels to the caller."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def read_record(paths: StatePaths, container: str) -> dict[str, Any]:
    """The lease file of a container as plain JSON. Raises RefusedError.

    A file that somebody other than root could have written is not believed.
    """
    try:
        fd = os.open(paths.slot(container), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise RefusedError("no_record", f"no record of container {container}") from error
    with os.fdopen(fd, "rb") as stream:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise RefusedError("bad_record", f"the record of {container} is writable by others")
        raw = stream.read(_MAX_RECORD + 1)
    try:
        record = json.loads(raw)
    except ValueError as error:
        raise RefusedError("bad_record", f"the record of {container} is not JSON") from error
    if not isinstance(record, dict):
        raise RefusedError("bad_record", f"the record of {container} is not an object")
    return record


def wanted_listeners(record: dict[str, Any]) -> list[tuple[str, int]]:
    """Address and port of each listener in the record's order. Raises RefusedError."""
    try:
        wanted = [(str(each["address"]), int(each["port"])) for each in record["listeners"]]
        loopback = all(ipaddress.ip_address(address) in _LOOPBACK for address, _ in wanted)
    except (KeyError, TypeError, ValueError) as error:
        raise RefusedError("bad_record", f"listeners of the record: {error!r}") from error
    if not loopback or not all(0 < port < 65536 for _, port in wanted):
        raise RefusedError("bad_record", "a listener that is not on 127.0.0.0/8")
    if len(wanted) > _MAX_LISTENERS:
        raise RefusedError("bad_record", f"more than {_MAX_LISTENERS} listeners")
    return wanted


def open_namespace(sandbox_key: object) -> int:
    """A descriptor of the container's network namespace. Raises RefusedError."""
    if not isinstance(sandbox_key, str) or not _SANDBOX.fullmatch(sandbox_key):
        raise RefusedError("no_namespace", f"{sandbox_key!r} is not a Docker network namespace")
    try:
        fd = os.open(sandbox_key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise RefusedError("no_namespace", f"{sandbox_key}: {error.strerror}") from error
    own, other = Path("/proc/self/ns/net").stat(), os.fstat(fd)
    # Docker keeps the host's own namespace there too (as "default"), and an unmounted key is
    # an empty plain file.
    if syscalls.filesystem_magic(fd) != syscalls.NSFS_MAGIC or own.st_ino == other.st_ino:
        os.close(fd)
        raise RefusedError("no_namespace", f"{sandbox_key} is not the namespace of a container")
    return fd


def _die(message: str) -> NoReturn:
    sys.stderr.write(f"opener: {message}\n")
    sys.stderr.flush()
    os._exit(70)


def sockets_within(namespace: int, count: int) -> list[socket.socket]:
    """``count`` new TCP sockets that belong to the namespace behind the descriptor.

    The process is inside only while it makes them. If it cannot come back it exits at once:
    a root process in a container's namespace must not go on. Raises OSError.
    """
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    made: list[socket.socket] = []
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        try:
            for _ in range(count):
                one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                made.append(one)  # one by one: those made before a failure are closed
        finally:
            try:
                syscalls.setns(own, syscalls.CLONE_NEWNET)
            except OSError as error:
                _die(f"cannot return to my own network namespace: {error}")
    except OSError:
        close_all(made)
        raise
    finally:
        os.close(own)
    return made


def close_all(sockets: list[socket.socket]) -> None:
    """Close every socket."""
    for each in sockets:
        each.close()


def open_listeners(paths: StatePaths, container: str) -> list[socket.socket]:
    """Listening sockets inside the container, in the record's order.

    Raises RefusedError, OSError.
    """
    record = read_record(paths, container)
    wanted = wanted_listeners(record)
    namespace = open_namespace(record.get("sandbox_key"))
    try:
        sockets = sockets_within(namespace, len(wanted))
    finally:
        os.close(namespace)
    try:
        for each, where in zip(sockets, wanted, strict=True):
            # Without it, connections left by a dead gate would keep the port for a minute.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _bind(each, where)
    except (RefusedError, OSError):
        close_all(sockets)
        raise
    return sockets


def open_connector(paths: StatePaths, container: str) -> socket.socket:
    """A TCP socket inside the container that is not connected: its holder says where to.

    Nothing is sent or received here, so this process still has no network input. Raises
    RefusedError, OSError.
    """
    namespace = open_namespace(read_record(paths, container).get("sandbox_key"))
    try:
        (made,) = sockets_within(namespace, 1)
    finally:
        os.close(namespace)
    return made


def _bind(listener: socket.socket, where: tuple[str, int]) -> None:
    try:
        listener.bind(where)
        listener.listen(128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RefusedError("port_taken", f"{where[0]}:{where[1]} is taken inside") from error
        raise
