"""Every name that Greenroom gives: workflow ids, task queues, container ids, labels, tags."""

from __future__ import annotations

import hashlib
import re

from greenroom.core.errors import UsageError

_POOL = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_CLAIM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@=+-]{0,99}")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

HOLDER_CHARACTERS = 200
WORKFLOW_ID_BYTES = 1000
"""Temporal's bound. A longer one in a command fails the sender's workflow task for ever."""
WORKFLOW_QUEUE = "greenroom"
"""The task queue of every workflow."""

LABEL_INSTALL = "greenroom.install"
LABEL_NAMESPACE = "greenroom.namespace"
LABEL_POOL = "greenroom.pool"
LABEL_KIND = "greenroom.kind"
LABEL_CONTAINER = "greenroom.container"
LABEL_FINGERPRINT = "greenroom.fingerprint"
LABEL_WORKFLOW = "greenroom.workflow"


def check_pool_name(name: str) -> str:
    """``name`` itself; UsageError when it cannot name a pool."""
    if not _POOL.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a pool: use lower-case letters, digits and inner hyphens, "
            "40 at most, starting with a letter"
        )
    return name


def check_claim_id(claim_id: str) -> str:
    """``claim_id`` itself; UsageError when it cannot identify a claim (it names a file too)."""
    if not _CLAIM.fullmatch(claim_id):
        raise UsageError(
            f"{claim_id!r} cannot be a claim id: use letters, digits and . _ @ = + -, "
            "100 at most, starting with a letter or digit"
        )
    return claim_id


def check_holder(holder: str) -> str:
    """``holder`` itself; UsageError when it is too long to be kept with a lease."""
    if len(holder) > HOLDER_CHARACTERS:
        raise UsageError(f"holder is longer than {HOLDER_CHARACTERS} characters")
    return holder


def member_id(group: str, number: int) -> str:
    """The claim id of a group's member; ``number`` counts from 1."""
    return f"{group}.{number}"


def member_of(claim_id: str) -> tuple[str, int]:
    """The group and number that an id has if it is a member's; ``("", 0)`` when it cannot be."""
    group, dot, number = claim_id.rpartition(".")
    if not dot or not re.fullmatch(r"[1-9][0-9]{0,3}", number):
        return "", 0
    return group, int(number)


def keeper_id(pool: str) -> str:
    return f"greenroom/pool/{pool}"


def container_workflow_id(pool: str, container: str) -> str:
    return f"greenroom/container/{pool}/{container}"


def snapshot_workflow_id(pool: str, fingerprint: str) -> str:
    return f"greenroom/snapshot/{pool}/{fingerprint}"


def wait_workflow_id(pool: str, claim_id: str) -> str:
    return f"greenroom/wait/{pool}/{claim_id}"


def task_workflow_id(pool: str, claim_id: str) -> str:
    return f"greenroom/task/{pool}/{claim_id}"


def host_workflow_id(host: str) -> str:
    return f"greenroom/host/{host}"


def host_queue(host: str) -> str:
    """The task queue that only this host's worker polls."""
    return f"greenroom/host/{host}"


def long_queue(queue: str) -> str:
    """Where a host takes what may run for hours, so that nothing quick has to wait behind it."""
    return f"{queue}/long"


def place_queue() -> str:
    """The task queue on which hosts offer room for one more container."""
    return "greenroom/place"


def ulid(epoch_seconds: float, randomness: int) -> str:
    """A ULID (github.com/ulid/spec): 48 bits of milliseconds, 80 of ``randomness``."""
    value = (int(epoch_seconds * 1000) & (1 << 48) - 1) << 80 | randomness & (1 << 80) - 1
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))


def object_name(install: str, kind: str, ident: str) -> str:
    """The Docker name of an object of this install."""
    return f"greenroom-{install[:8]}-{kind}-{ident.lower()}"


def image_tag(install: str, pool: str, fingerprint: str) -> str:
    return f"greenroom/{install[:8]}/{pool}:{fingerprint[:12]}"


def mirror_key(url: str) -> str:
    """The file name of a repository's mirror: readable end, then a hash of the whole URL."""
    tail = re.sub(r"[^a-z0-9]+", "-", url.rstrip("/").removesuffix(".git").lower()).strip("-")
    digest = hashlib.sha256(url.encode()).hexdigest()[:10]
    return f"{tail[-30:].strip('-') or 'repo'}-{digest}"
