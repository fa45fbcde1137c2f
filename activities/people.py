"""Who runs things in a container: the image's own user, or one that is made for it."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass

from activities.engine import Engine

LABEL_USER = "greenroom.user"
"""Image label ``user:uid:gid:home``: who a snapshot was prepared for."""
FALLBACK_UID = 1000


@dataclass(frozen=True)
class Person:
    """A user inside an image."""

    user: str
    uid: int
    gid: int
    home: str

    @property
    def label(self) -> str:
        return f"{self.user}:{self.uid}:{self.gid}:{self.home}"

    @classmethod
    def from_label(cls, label: str) -> Person:
        """The inverse of ``label``."""
        user, uid, gid, home = label.split(":", 3)
        return cls(user, int(uid), int(gid), home)

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": self.home, "USER": self.user}


def find_person(passwd: str, group: str, image_user: str) -> Person:
    """The non-root user that an image's ``User`` means.

    ``passwd`` and ``group`` are the image's files. An image that runs as root gets the user with
    id 1000, or one named ``agent`` that is still to be made.
    """
    people = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 6]
    name, _, group_name = image_user.partition(":")
    wanted = name if name not in {"", "root", "0"} else str(FALLBACK_UID)
    for entry in people:
        if wanted in {entry[0], entry[2]} and entry[2] != "0":
            gid = _gid(group, group_name) if group_name else int(entry[3])
            return Person(entry[0], int(entry[2]), gid, entry[5] or "/")
    if wanted.isdigit():
        gid = _gid(group, group_name) if group_name else int(wanted)
        return Person("agent", int(wanted), gid, "/home/agent")
    return Person("agent", FALLBACK_UID, FALLBACK_UID, "/home/agent")


def read_small_file(engine: Engine, container: str, path: str) -> str:
    """A text file of a container, one megabyte at most. Raises EngineError."""
    with engine.get_archive(container, path) as stream:
        data = stream.read(2 << 20)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        member = archive.next()
        file = archive.extractfile(member) if member is not None and member.isreg() else None
        return file.read(1 << 20).decode(errors="replace") if file is not None else ""


def _gid(group: str, name: str) -> int:
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and name in {fields[0], fields[2]}:
            return int(fields[2])
    return int(name) if name.isdigit() else FALLBACK_UID


SETUP_SCRIPT = r"""
set -eu
user=$1 uid=$2 gid=$3 home=$4 workdir=$5
grep -q "^[^:]*:[^:]*:$gid:" /etc/group || echo "$user:x:$gid:" >> /etc/group
if ! grep -q "^[^:]*:[^:]*:$uid:" /etc/passwd; then
    echo "$user:x:$uid:$gid::$home:/bin/sh" >> /etc/passwd
    mkdir -p "$home"
    chown "$uid:$gid" "$home"
fi
mkdir -p "$workdir"
chown "$uid:$gid" "$workdir"
"""
"""As root in a builder: the user and the work folder are there and fit together."""
