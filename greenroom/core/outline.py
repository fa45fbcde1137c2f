"""The Markdown that the Temporal UI shows as a workflow's current details."""

from __future__ import annotations

from greenroom.core.pool_messages import PoolStatus


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
