"""While somebody works in a container: heartbeats for them, and word of the lease's end."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from greenroom.api.state import ApiState
from greenroom.core.slotfile import SlotRecord
from greenroom.core.spans import span

_log = logging.getLogger("greenroom.api")
_LOOK_AGAIN_S = 30.0
"""How long an extension after a warning may go unseen."""


async def watch_lease(
    state: ApiState, slot: SlotRecord, say: Callable[[str], Awaitable[object]]
) -> None:
    """Beat for the lease that ``slot`` has now, and ``say`` once per end that it comes soon.

    Returns when there is nothing (more) to do: the lease wants neither, has ended, or was
    transferred.
    """
    token = slot.lease.token if slot.lease else 0
    warned_of = 0.0
    found: SlotRecord | None = slot
    while found is not None and found.lease is not None:
        lease, now = found.lease, time.time()
        if lease.ended or lease.token != token or lease.expires_at <= now:
            return
        waits = []
        if lease.heartbeat_s:
            await _beat(state, found.container)
            waits.append(lease.heartbeat_s / 2)
        if found.warn_s:
            left = lease.expires_at - now
            if left <= found.warn_s and warned_of != lease.expires_at:
                warned_of = lease.expires_at
                await say(_warning(lease.claim_id, left))
            soon = warned_of == lease.expires_at
            waits.append(min(left, _LOOK_AGAIN_S) if soon else left - found.warn_s)
        if not waits:
            return
        await asyncio.sleep(min(waits))
        found = await asyncio.to_thread(state.host.slot, found.container)


async def _beat(state: ApiState, container: str) -> None:
    try:
        await asyncio.to_thread(state.host.beat, container)
    except OSError as error:
        _log.warning("no heartbeat for %s: %s", container, error)  # the next one may do


def _warning(claim_id: str, left: float) -> str:
    return (
        f"greenroom: lease ends in {span(left)}; `greenroom extend {claim_id} --ttl 1h` "
        "lengthens it"
    )
