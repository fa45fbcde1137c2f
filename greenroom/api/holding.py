"""What keeps a claim its holder's: heartbeats, and giving it to another holder."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from greenroom.api.leases import find_lease
from greenroom.api.state import State
from greenroom.core.errors import CorpseError, NotFoundError
from greenroom.core.messages import TransferRequest

router = APIRouter(prefix="/v1/claims")


class HeartbeatBody(BaseModel):
    """``token`` None: the live lease's, whoever asks."""

    model_config = ConfigDict(extra="forbid")

    token: int | None = None


class HeartbeatDocument(BaseModel):
    """When the claim ends (epoch seconds), and how often it must be heard of (0: never)."""

    claim_id: str
    expires_at: float
    heartbeat_s: float
    held: bool


class TransferBody(BaseModel):
    """``token`` None: the live lease's, whoever asks; with it, asking again is safe."""

    model_config = ConfigDict(extra="forbid")

    holder: str
    token: int | None = None


class TransferDocument(BaseModel):
    """The lease under its new token; what had the old one is refused from now on."""

    claim_id: str
    pool: str
    container: str
    holder: str
    token: int
    expires_at: float


@router.post("/{claim_id}/heartbeat")
async def heartbeat(
    claim_id: str, state: State, body: HeartbeatBody | None = None
) -> HeartbeatDocument:
    """Say that the holder is there. Neither the keeper nor Temporal hears of it.

    Raises NotFoundError, FencedError.
    """
    token = body.token if body is not None else None
    found = await find_lease(state, claim_id, token=token)
    if found.heartbeat_s:
        await asyncio.to_thread(state.host.beat, found.container)
    return HeartbeatDocument(
        claim_id=claim_id,
        expires_at=found.expires_at,
        heartbeat_s=0.0 if found.held else found.heartbeat_s,
        held=found.held,
    )


@router.post("/{claim_id}/transfer")
async def transfer(claim_id: str, body: TransferBody, state: State) -> TransferDocument:
    """Give a claim to another holder. The keeper decides, the host knows before this answers.

    Raises UsageError, NotFoundError, FencedError.
    """
    found = await find_lease(state, claim_id)
    token = found.token if body.token is None else body.token
    request = TransferRequest(claim_id=claim_id, token=token, holder=body.holder)
    lease = await state.client.transfer(found.pool, request)
    try:
        await asyncio.to_thread(state.host.arm, lease, None)
    except CorpseError as error:
        raise NotFoundError(f"claim {claim_id} has lost its container: {error.message}") from error
    return TransferDocument.model_validate(
        lease.model_dump(include=set(TransferDocument.model_fields))
    )
