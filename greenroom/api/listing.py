"""Claims as they are: live, waiting, or ended."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter

from greenroom.api.leases import FoundLease, find_lease, hooks_of
from greenroom.api.pools import statuses
from greenroom.api.state import ApiState, State
from greenroom.client.ended import ended_claim
from greenroom.core.access import Scope
from greenroom.core.errors import NotFoundError
from greenroom.core.messages import EndedClaim
from greenroom.core.pool_messages import PoolStatus, SlotView, WaitingView

router = APIRouter(prefix="/v1/claims")


class ShownLease(FoundLease):
    """``token`` is None for callers that may only read."""

    token: int | None  # type: ignore[assignment]


class LiveClaim(SlotView):
    """A container that is claimed.

    ``hooks``: ``running`` while commands wait for the claim's hooks, or which one failed.
    """

    pool: str
    hooks: str = ""


class QueuedClaim(WaitingView):
    """A claim that waits in a pool's queue."""

    state: Literal["queued"] = "queued"
    pool: str


@router.get("")
async def list_claims(state: State) -> list[LiveClaim | QueuedClaim]:
    """Live claims of every pool, oldest first, then those that wait, in the order of each queue.

    ``state`` is ``queued`` for those that wait.
    """
    pools = await statuses(state)
    live = [
        LiveClaim(pool=status.pool, **slot.model_dump(), hooks=_hooks(state, slot))
        for status in pools
        for slot in status.containers
        if slot.claim_id
    ]
    return [*sorted(live, key=lambda claim: claim.since), *_queued(pools)]


@router.get("/{claim_id}")
async def show_claim(claim_id: str, state: State) -> ShownLease | QueuedClaim | EndedClaim:
    """One claim: live, waiting, or how it ended. Raises NotFoundError.

    A live one with its fencing token for those who may use it.
    """
    try:
        shown = ShownLease.model_validate((await find_lease(state, claim_id)).model_dump())
    except NotFoundError:
        queued = _queued(await statuses(state))
        waiting = next((one for one in queued if one.claim_id == claim_id), None)
        found = waiting or await ended_claim(state.client.temporal, claim_id)
        if found is None or not state.grant.sees(found.pool):
            raise
        return found
    if not state.grant.scope.contains(Scope.CLAIM):
        shown.token = None
    return shown


def _hooks(state: ApiState, slot: SlotView) -> str:
    record = state.host.slot(slot.container)
    return hooks_of(record) if record is not None else ""


def _queued(pools: list[PoolStatus]) -> list[QueuedClaim]:
    return [
        QueuedClaim(pool=status.pool, **waiting.model_dump())
        for status in pools
        for waiting in status.waiting
    ]
