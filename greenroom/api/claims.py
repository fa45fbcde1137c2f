"""Claiming, and what can be done with a claim but run commands in it."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from greenroom.api.leases import FoundLease, find_lease, hooks_of
from greenroom.api.pools import statuses
from greenroom.api.state import ApiState, PersonalParts, State, WantedSecrets
from greenroom.core.access import Scope
from greenroom.core.errors import (
    CorpseError,
    FencedError,
    GreenroomError,
    NoContainerError,
    NotFoundError,
    UsageError,
)
from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import (
    ClaimReply,
    ClaimRequest,
    ExtendReply,
    ExtendRequest,
    Queued,
    ReleaseRequest,
)
from greenroom.core.names import check_claim_id, check_pool_name, ulid
from greenroom.core.pool_messages import SlotView
from greenroom.core.records import Lease, SavedWork

router = APIRouter(prefix="/v1")
_log = logging.getLogger("greenroom.api")

CORPSES = 20
"""Dead containers in a row after which a claim gives up."""
_GRACE_S = 30.0


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


class ClaimDocument(BaseModel):
    """The answer to a claim (design, section 10). Times are epoch seconds."""

    claim_id: str
    pool: str
    container: str
    container_workflow: str
    host: str
    commit: str
    fingerprint: str
    snapshot_age_s: float
    warm: bool
    miss_reason: str | None
    waited_s: float
    stages_ms: dict[str, float]
    armed: bool
    expires_at: float
    token: int


class ShownLease(FoundLease):
    """``token`` is None for callers that may only read."""

    token: int | None  # type: ignore[assignment]


class LiveClaim(SlotView):
    """``hooks``: ``running`` while commands wait for the claim's hooks, or which one failed."""

    pool: str
    hooks: str = ""


class SavedClaim(SavedWork):
    """What an ended claim left. ``saved_at`` in epoch seconds."""

    pool: str
    claim_id: str
    saved_at: float


class ExtendBody(BaseModel):
    """``ttl_s`` counts from now. ``token`` None: the live lease's, whoever asks."""

    model_config = ConfigDict(extra="forbid")

    ttl_s: Seconds
    token: int | None = None


class ReleaseDocument(BaseModel):
    """The answer to a release. ``saved`` is None when it did not wait for that."""

    claim_id: str
    container: str
    reason: EndReason
    saved: SavedWork | None = None


@dataclass
class _Stages:
    """Time spent in each stage of one claim, in ms."""

    began: float = field(default_factory=time.perf_counter)
    spent: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self.spent[name] = round(self.spent.get(name, 0.0) + (now - self.last) * 1000, 3)
        self.last = now

    def total_s(self) -> float:
        return time.perf_counter() - self.began


@router.post("/pools/{pool}/claims")
async def claim(pool: str, body: ClaimBody, state: State, request: Request) -> ClaimDocument:
    """Grant one armed container, after a wait of at most ``wait_s``.

    On the way of a claim that finds one ready there is one Update and the arming, no more.
    """
    stages = _Stages()
    wanted, personal = body.request(), body.personal()
    if body.sealed or body.host_secrets:  # before a container is spent
        secret = WantedSecrets(pool, wanted.claim_id, body.sealed, body.host_secrets)
        personal = await asyncio.to_thread(state.host.fetch, secret, personal)
    deadline = time.monotonic() + wanted.wait_s
    for _ in range(CORPSES):
        reply = await state.client.claim(pool, wanted)
        stages.end("keeper")
        lease = reply.lease
        if lease is None:
            lease = await _queued(state, pool, wanted, reply, request)
            stages.end("queue")
        try:
            await asyncio.to_thread(state.host.arm, lease, personal)
        except (CorpseError, FencedError):
            # Dead, or ended before we came: the keeper knows whether the claim gets another one.
            stages.end("arm")
            left = max(0.0, deadline - time.monotonic())
            wanted = wanted.model_copy(
                update={"corpse": lease.container, "corpse_token": lease.token, "wait_s": left}
            )
            continue
        except GreenroomError as error:
            if isinstance(error, UsageError) or not body.claim_id:
                await _give_back(state, lease)
            raise
        stages.end("arm")
        state.metrics.claimed(pool, stages.total_s(), warm=lease.warm)
        return _document(lease, stages)
    raise NoContainerError(f"{CORPSES} containers of pool {pool} in a row were dead")


async def _give_back(state: ApiState, lease: Lease) -> None:
    """End a lease whose holder will never hear of it, or cannot use it: nobody else would."""
    order = ReleaseRequest(claim_id=lease.claim_id, token=lease.token)
    try:
        await state.client.release_by_signal(lease.pool, order)
    except GreenroomError as error:
        _log.warning("claim %s not given back, it ends by itself: %s", lease.claim_id, error)


async def _queued(
    state: ApiState, pool: str, wanted: ClaimRequest, reply: ClaimReply, request: Request
) -> Lease:
    """Wait for a queued claim's verdict; a caller that goes away cancels the claim."""
    waiting = asyncio.ensure_future(
        state.client.verdict(pool, wanted.claim_id, within_s=wanted.wait_s + _GRACE_S)
    )
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await state.client.cancel_wait(pool, wanted.claim_id)
            raise NotFoundError(f"claim {wanted.claim_id} was cancelled: its caller went away")
        verdict = waiting.result()
    finally:
        leaving.cancel()
        waiting.cancel()
    if verdict.lease is not None:
        return verdict.lease
    why = reply.queued.miss_reason if reply.queued else None
    if verdict.reason is EndReason.CANCELLED:
        raise NotFoundError(f"claim {wanted.claim_id} was cancelled")
    detail = verdict.detail or f"{verdict.reason or 'refused'}"
    raise NoContainerError(
        f"pool {pool} had no container within {wanted.wait_s:g} s ({detail})", miss_reason=why
    )


async def _gone(request: Request) -> None:
    """Returns when the caller has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _document(lease: Lease, stages: _Stages) -> ClaimDocument:
    known = lease.model_dump(include=set(ClaimDocument.model_fields) - {"stages_ms", "armed"})
    spent = {**stages.spent, "total": round(stages.total_s() * 1000, 3)}
    return ClaimDocument(**known, stages_ms=spent, armed=True)


@router.get("/claims", response_model=list[LiveClaim])
async def list_claims(state: State) -> list[dict[str, Any]]:
    """Live claims of every pool, oldest first."""
    found = [
        {"pool": status.pool, **slot.model_dump(mode="json"), "hooks": _hooks(state, slot)}
        for status in await statuses(state)
        for slot in status.containers
        if slot.claim_id
    ]
    return sorted(found, key=lambda claim: claim["since"])


def _hooks(state: ApiState, slot: SlotView) -> str:
    record = state.host.slot(slot.container)
    return hooks_of(record) if record is not None else ""


@router.get("/pools/{pool}/queue/{claim_id}")
async def show_place(pool: str, claim_id: str, state: State) -> Queued:
    """The place of a waiting claim in its pool's queue. Raises NotFoundError."""
    found = await state.client.queued(check_pool_name(pool), claim_id)
    if found is None:
        raise NotFoundError(f"claim {claim_id} is not waiting in pool {pool}")
    return found


@router.get("/claims/{claim_id}")
async def show_claim(claim_id: str, state: State) -> ShownLease:
    """One live claim; with its fencing token for those who may use it. Raises NotFoundError."""
    shown = ShownLease.model_validate((await find_lease(state, claim_id)).model_dump())
    if not state.grant.scope.contains(Scope.CLAIM):
        shown.token = None
    return shown


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
        found.container_workflow, ExtendRequest(token=found.token, ttl_s=body.ttl_s)
    )


@router.get("/saved", response_model=list[SavedClaim])
async def list_saved(state: State, claim: str = "") -> list[dict[str, Any]]:
    """What ended claims left, newest first; of one claim when it is named."""
    return await asyncio.to_thread(saved_work, state, claim)


def saved_work(state: ApiState, claim_id: str = "") -> list[dict[str, Any]]:
    """The records of saved work on this host, newest first. Raises UsageError."""
    name = check_claim_id(claim_id) if claim_id else "*"
    found = []
    for record in state.paths.saved.glob(f"*/{name}/saved.json"):
        try:
            told = json.loads(record.read_text())
            saved_at = record.stat().st_mtime
        except FileNotFoundError:
            continue  # collected at this moment
        folder = record.parent
        if not state.grant.sees(folder.parent.name):
            continue
        found.append(
            {**told, "pool": folder.parent.name, "claim_id": folder.name, "saved_at": saved_at}
        )
    return sorted(found, key=lambda item: -item["saved_at"])
