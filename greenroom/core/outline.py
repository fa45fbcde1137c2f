"""The Markdown that the Temporal UI shows as a workflow's current details."""

from __future__ import annotations

from greenroom.core.pool_messages import PoolStatus
from greenroom.core.records import Lease


def pool_details(status: PoolStatus) -> str:
    """A pool in a few lines: the same counts as everywhere else."""
    counts = status.counts
    rows = [
        f"**{status.pool}** follows `{status.ref}` of `{status.repo}`",
        f"- serving: `{status.commit[:12] or 'nothing yet'}` ({status.fingerprint[:12]})",
        (
            f"- ready {counts.ready} of {status.target}, claimed {counts.claimed}, "
            f"preparing {counts.creating + counts.cloning + counts.installing}, "
            f"stale {counts.stale}, queue {status.queue}"
        ),
        f"- refresh: {status.refresh.state} `{status.refresh.commit[:12]}`",
    ]
    if status.paused:
        rows.append("- **paused**")
    if status.suspended:
        rows.append(f"- **going away: {status.suspended}**")
    if status.failure is not None:
        rows.append(f"- **failing** ({status.failure_streak} in a row): {status.failure.reason}")
        if status.failure.tail:
            rows.append(f"\n```\n{status.failure.tail}\n```")
    return "\n".join(rows)


def lease_details(lease: Lease, ends: str, *, ending_soon: bool) -> str:
    """A claimed container in a few lines; ``ends`` is its end for people."""
    rows = [
        f"claim **{lease.claim_id}** of `{lease.holder or 'nobody named'}`",
        f"- ends at {ends}",
    ]
    if lease.held:
        rows.append("- **held** for debugging: no heartbeat is demanded")
    elif lease.heartbeat_s:
        rows.append(f"- a heartbeat at least every {lease.heartbeat_s:g} s")
    if ending_soon:
        rows.append("- **ends soon**: its holder has been told")
    return "\n".join(rows)
