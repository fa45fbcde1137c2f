"""What a claimed container says about its lease: ``lease.json`` and an identity for git.

Both stand in the personal tmpfs, for whoever works in the container; the host never reads them.
"""

from __future__ import annotations

import json
import logging
import re
import time

from activities.personal import write_files
from activities.profiles import PERSONAL
from greenroom.core.errors import CorpseError, UsageError
from greenroom.core.paths import StatePaths
from greenroom.core.slotfile import HostLease, SlotRecord

LEASE_FILE = "lease.json"
GIT_FILE = "gitconfig"
GIT_ENVIRONMENT = {"GIT_CONFIG_SYSTEM": f"{PERSONAL}/{GIT_FILE}"}
"""Git's lowest level of configuration: the user's and the repository's own win."""
_LOG = logging.getLogger(__name__)


def write_lease_files(paths: StatePaths, record: SlotRecord, *, ending_soon: bool = False) -> None:
    """Write what ``record`` says of its lease. Raises CorpseError, UsageError (no room), OSError.

    ``ending_soon``: say so whatever the time is.
    """
    lease = record.lease
    if lease is None:
        return
    soon = ending_soon or (record.warn_s > 0 and lease.expires_at - record.warn_s <= time.time())
    told = {
        "claim_id": lease.claim_id,
        "holder": lease.holder,
        "expires_at": lease.expires_at,
        "ending_soon": soon,
        "held": lease.held,
    }
    write_files(
        paths,
        record,
        {
            LEASE_FILE: json.dumps(told, indent=1).encode() + b"\n",
            GIT_FILE: git_identity(record, lease).encode(),
        },
    )


def renew_lease_files(paths: StatePaths, record: SlotRecord, *, ending_soon: bool = False) -> None:
    """As ``write_lease_files``; that it cannot be done is no reason to fail a lease's change."""
    try:
        write_lease_files(paths, record, ending_soon=ending_soon)
    except (CorpseError, UsageError, OSError) as error:
        _LOG.warning("%s of %s stays as it is: %s", LEASE_FILE, record.container, error)


def git_identity(record: SlotRecord, lease: HostLease) -> str:
    """Git configuration that names an author where nobody has; keeps what the image has set."""
    name = record.git_name or _plain(lease.holder) or "greenroom"
    email = record.git_email or f"{lease.claim_id}@greenroom.invalid"
    return (
        f"[user]\n\tname = {_quoted(name)}\n\temail = {_quoted(email)}\n"
        "[include]\n\tpath = /etc/gitconfig\n"
    )


def _plain(text: str) -> str:
    """What git takes as a name; empty when nothing of it is."""
    plain = re.sub(r"[\x00-\x1f\x7f<>]", "", text).strip()
    return plain if any(map(str.isalnum, plain)) else ""


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
