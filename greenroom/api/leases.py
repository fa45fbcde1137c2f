"""Finding a claim: the host's lease file first, else the keepers."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

from pydantic import BaseModel

from greenroom.api.pools import known_pools
from greenroom.api.state import ApiState
from greenroom.client import ANSWER_S
from greenroom.core.errors import FencedError, NotFoundError
from greenroom.core.messages import ArmRequest
from greenroom.core.names import check_claim_id
from greenroom.core.slotfile import SlotRecord

RUNNING = "running"


class FoundLease(BaseModel):
    """A live lease. ``expires_at`` in epoch seconds.

    ``armed``: commands can run. ``hooks``: ``running``, or which claim hook failed.
    """

    state: Literal["claimed"] = "claimed"
    claim_id: str
    pool: str
    container: str
    container_workflow: str
    holder: str
    token: int
    expires_at: float
    armed: bool
    commit: str
    fingerprint: str
    hooks: str = ""
    heartbeat_s: float = 0.0
    held: bool = False


async def find_lease(
    state: ApiState, claim_id: str, *, token: int | None = None, pool: str = ""
) -> FoundLease:
    """The live lease of a claim. Raises NotFoundError, FencedError (another token), UsageError."""
    check_claim_id(claim_id)
    found = _on_this_host(state, claim_id, pool) or await _from_keepers(state, claim_id, pool)
    if token is not None and token != found.token:
        raise FencedError(f"token {token} is not that of the live lease of claim {claim_id}")
    return found


async def usable_slot(state: ApiState, claim_id: str, token: int | None) -> SlotRecord:
    """The armed container of a live claim, ready for commands.

    A claim that is granted and not armed yet is waited for. Raises as ``find_lease``.
    """
    lease = await find_lease(state, claim_id, token=token)
    if not lease.armed:
        patience = max(0.0, lease.expires_at - time.time()) if lease.hooks else 0.0
        await state.client.arm(
            lease.container_workflow,
            ArmRequest(claim_id=claim_id, token=lease.token),
            within_s=max(ANSWER_S, patience),
        )
    slot = await asyncio.to_thread(state.host.slot, lease.container)
    if slot is None or slot.lease is None or slot.lease.token != lease.token:
        raise NotFoundError(f"claim {claim_id} has ended")
    _check_live(slot, time.time())
    return slot


def hooks_of(slot: SlotRecord) -> str:
    """``running`` while commands wait for the claim's hooks; which one failed; else empty."""
    lease = slot.lease
    if lease is None:
        return ""
    return RUNNING if slot.hooks and not lease.hooks_done else lease.failed_hook


def _check_live(slot: SlotRecord, now: float) -> None:
    lease = slot.lease
    if lease is not None and lease.ended:
        raise NotFoundError(f"claim {lease.claim_id} ended: {lease.end_reason or 'released'}")
    if lease is not None and lease.expires_at <= now:
        raise NotFoundError(f"claim {lease.claim_id} ended: expired")


def _on_this_host(state: ApiState, claim_id: str, pool: str) -> FoundLease | None:
    slot = state.host.slot_of_claim(claim_id)
    if slot is None or slot.lease is None or slot.lease.claim_id != claim_id:
        return None
    if not state.grant.sees(slot.pool) or pool not in {"", slot.pool}:
        return None  # another pool's claim of the same id
    _check_live(slot, time.time())
    lease = slot.lease
    return FoundLease(
        claim_id=claim_id,
        pool=slot.pool,
        container=slot.container,
        container_workflow=slot.workflow_id,
        holder=lease.holder,
        token=lease.token,
        expires_at=lease.expires_at,
        armed=lease.policy_armed and hooks_of(slot) != RUNNING,
        hooks=hooks_of(slot),
        commit=slot.commit,
        fingerprint=slot.fingerprint,
        heartbeat_s=lease.heartbeat_s,
        held=lease.held,
    )


async def _from_keepers(state: ApiState, claim_id: str, pool: str) -> FoundLease:
    pools = [pool] if pool and state.grant.sees(pool) else await known_pools(state)
    answers = await asyncio.gather(
        *(state.client.lease(name, claim_id) for name in pools), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException):
            if isinstance(answer, NotFoundError):
                continue  # a pool that is going away
            raise answer
        if answer is not None:
            return FoundLease(
                **answer.model_dump(
                    include=set(FoundLease.model_fields) - {"armed", "hooks", "state"}
                ),
                armed=False,
            )
    kept = state.paths.saved.glob(f"*/{claim_id}/saved.json")
    if any(state.grant.sees(record.parent.parent.name) for record in kept):
        raise NotFoundError(f"claim {claim_id} has ended; see `greenroom saved show {claim_id}`")
    raise NotFoundError(f"no live claim {claim_id}")
