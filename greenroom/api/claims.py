"""Claiming, and what can be done with a claim but run commands in it."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from greenroom.api.granting import ClaimDocument, GroupDocument, Taking, take
from greenroom.api.leases import find_lease
from greenroom.api.saved import saved_work
from greenroom.api.state import PersonalParts, State, WantedSecrets
from greenroom.core.errors import FencedError, NotFoundError, UsageError
from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import (
    ClaimRequest,
    ExtendReply,
    ExtendRequest,
    Queued,
    ReleaseRequest,
)
from greenroom.core.names import check_pool_name, ulid
from greenroom.core.records import SavedWork

router = APIRouter(prefix="/v1")
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ClaimBody(BaseModel):
    """The body of a claim. ``files`` are base64 by name; an empty ``claim_id`` makes a new one."""

    model_config = ConfigDict(extra="forbid")

    claim_id: str = ""
    holder: str = ""
    ttl_s: Seconds = 0.0
    wait_s: Seconds = 0.0
    issued_at: Seconds = 0.0
    labels: dict[str, str] = Field(default_factory=dict)
    heartbeat_s: Seconds = 0.0
    priority: int = Field(0, ge=-100, le=100)
    count: int = Field(1, ge=1, le=1000)
    partial: bool = False
    env: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    git_name: str = ""
    git_email: str = ""
    sealed: dict[str, str] = Field(default_factory=dict)
    host_secrets: tuple[str, ...] = ()

    def request(self) -> ClaimRequest:
        """The part that goes to the keeper."""
        now = time.time()
        return ClaimRequest(
            claim_id=self.claim_id or ulid(now, int.from_bytes(os.urandom(10))),
            holder=self.holder,
            ttl_s=self.ttl_s,
            wait_s=self.wait_s,
            issued_at=self.issued_at or now,
            labels=self.labels,
            heartbeat_s=self.heartbeat_s,
            priority=self.priority,
            count=self.count,
            partial=self.partial,
            brings=True,
        )

    def personal(self) -> PersonalParts:
        """The part that stays on the host. Raises UsageError for bad base64."""
        files: dict[str, bytes] = {}
        for name, text in self.files.items():
            try:
                files[name] = base64.b64decode(text, validate=True)
            except ValueError as error:  # binascii.Error, or letters beyond ASCII
                raise UsageError(f"files.{name} is not base64: {error}") from error
        return PersonalParts(
            env=self.env,
            secrets=self.secrets,
            files=files,
            git_name=self.git_name,
            git_email=self.git_email,
        )


class ExtendBody(BaseModel):
    """``ttl_s`` counts from now. ``token`` None: the live lease's, whoever asks.

    ``hold``: for debugging, up to the pool's ``lease.max_hold``, without heartbeats.
    """

    model_config = ConfigDict(extra="forbid")

    ttl_s: Seconds
    token: int | None = None
    hold: bool = False


class ReleaseDocument(BaseModel):
    """The answer to a release. ``saved`` is None when it did not wait for that."""

    claim_id: str
    container: str
    reason: EndReason
    saved: SavedWork | None = None


@router.post("/pools/{pool}/claims")
async def claim(
    pool: str, body: ClaimBody, state: State, request: Request
) -> ClaimDocument | GroupDocument:
    """Grant one armed container, or a group of ``count``, after a wait of at most ``wait_s``."""
    wanted, personal = body.request(), body.personal()
    # What is wrong with them costs no container.
    if body.sealed or body.host_secrets:
        secret = WantedSecrets(pool, wanted.claim_id, body.sealed, body.host_secrets)
        personal = await asyncio.to_thread(state.host.fetch, secret, personal)
    if personal != PersonalParts():
        await asyncio.to_thread(state.host.check_personal, pool, personal)
    return await take(
        Taking(
            state=state,
            pool=pool,
            wanted=wanted,
            personal=personal,
            named=bool(body.claim_id),
            request=request,
        )
    )


@router.get("/pools/{pool}/queue/{claim_id}")
async def show_place(pool: str, claim_id: str, state: State) -> Queued:
    """The place of a waiting claim in its pool's queue. Raises NotFoundError."""
    found = await state.client.queued(check_pool_name(pool), claim_id)
    if found is None:
        raise NotFoundError(f"claim {claim_id} is not waiting in pool {pool}")
    return found


@router.delete("/claims/{claim_id}")
async def release(  # noqa: PLR0913, PLR0917 - the parameters of a URL
    claim_id: str,
    state: State,
    token: int | None = None,
    save: bool = True,  # noqa: FBT001, FBT002 - as above
    wait: bool = True,  # noqa: FBT001, FBT002 - as above
    pool: str = "",
) -> ReleaseDocument:
    """End a claim. ``wait``: answer when its work is saved, else as soon as it is told."""
    found = await find_lease(state, claim_id, token=token, pool=pool)
    order = ReleaseRequest(claim_id=claim_id, token=found.token, save=save)
    if not wait:
        await state.client.release_by_signal(found.pool, order)
        return ReleaseDocument(
            claim_id=claim_id, container=found.container, reason=EndReason.RELEASED
        )
    try:
        reply = await state.client.release(found.container_workflow, order)
        return ReleaseDocument.model_validate(reply.model_dump())
    except NotFoundError as error:
        kept = saved_work(state, claim_id)
        if isinstance(error, FencedError) or not kept:
            raise
        # It ended, with its work saved, between our question and its answer.
        return ReleaseDocument(
            claim_id=claim_id,
            container=found.container,
            reason=EndReason.RELEASED,
            saved=SavedWork.model_validate(kept[0]),
        )


@router.post("/claims/{claim_id}/extend")
async def extend(claim_id: str, body: ExtendBody, state: State) -> ExtendReply:
    """Lengthen a claim; it never gets shorter."""
    found = await find_lease(state, claim_id, token=body.token)
    return await state.client.extend(
        found.container_workflow,
        ExtendRequest(token=found.token, ttl_s=body.ttl_s, hold=body.hold),
    )
