"""From a claim to armed containers: the keeper's answer, the queue, and another one for each dead.

On the way of a claim that finds a container ready there is one Update and the arming, no more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fastapi import Request
from pydantic import BaseModel

from greenroom.api.state import ApiState, PersonalParts
from greenroom.core.errors import (
    ConflictError,
    CorpseError,
    FencedError,
    GreenroomError,
    NoContainerError,
    NotFoundError,
    UsageError,
)
from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import ClaimReply, ClaimRequest, ReleaseRequest
from greenroom.core.names import member_id, member_of
from greenroom.core.records import Lease

_log = logging.getLogger("greenroom.api")

CORPSES = 20
"""Dead containers in a row after which a claim gives up."""
_GRACE_S = 30.0


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


class GroupDocument(BaseModel):
    """The answer to a claim with a ``count`` above 1: one document for each member."""

    claims: list[ClaimDocument]


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

    def branch(self) -> _Stages:
        """The same so far, for one member of a group."""
        return replace(self, spent=dict(self.spent))


@dataclass(frozen=True)
class Taking:
    """One call that claims. ``named``: its caller gave the id, and so can ask again."""

    state: ApiState
    pool: str
    wanted: ClaimRequest
    personal: PersonalParts
    named: bool
    request: Request
    began: float = field(default_factory=time.monotonic)

    def left_s(self) -> float:
        """What is left of the time that the caller waits."""
        return max(0.0, self.began + self.wanted.wait_s - time.monotonic())


async def take(taking: Taking) -> ClaimDocument | GroupDocument:
    """Armed containers for one claim, after a wait of at most ``wait_s``.

    Raises any error of a claim and of arming; what the caller will not hear of is given back.
    """
    stages, wanted = _Stages(), taking.wanted
    taken = taking.state.host.slot_of_claim(wanted.claim_id)
    if taken is not None and taken.pool != taking.pool and not taken.has_ended:
        raise ConflictError(f"claim id {wanted.claim_id} is in use on this host: take another one")
    reply = await taking.state.client.claim(taking.pool, wanted)
    stages.end("keeper")
    if wanted.count == 1:
        return await _armed(taking, wanted, reply, stages)
    leases: Sequence[Lease] = reply.leases
    if reply.outcome == "queued":
        leases = await _queued(taking, wanted, reply)
        stages.end("queue")
    return GroupDocument(claims=await _all_armed(taking, leases, stages))


async def _all_armed(
    taking: Taking, leases: Sequence[Lease], stages: _Stages
) -> list[ClaimDocument]:
    """Every member at once; when one fails for good, the whole group does."""
    granted = {member_of(lease.claim_id)[1]: lease for lease in leases}
    numbers = sorted(granted) if taking.wanted.partial else range(1, taking.wanted.count + 1)
    replies = {
        number: ClaimReply(outcome="granted", lease=lease) for number, lease in granted.items()
    }
    answers = await asyncio.gather(
        *(
            _armed(
                taking,
                taking.wanted.model_copy(update={"member": number}),
                replies.get(number),
                stages.branch(),
            )
            for number in numbers
        ),
        return_exceptions=True,
    )
    documents = [answer for answer in answers if isinstance(answer, ClaimDocument)]
    for number, answer in zip(numbers, answers, strict=True):
        if not isinstance(answer, BaseException):
            continue
        if isinstance(answer, NotFoundError) and number not in granted and documents:
            continue  # this member has ended since the group was granted
        if isinstance(answer, UsageError) or not taking.named:
            for document in documents:
                await _give_back(taking.state, document)
        raise answer
    return documents


async def _armed(
    taking: Taking, wanted: ClaimRequest, reply: ClaimReply | None, stages: _Stages
) -> ClaimDocument:
    """One armed container; for one that is found dead the keeper is asked again."""
    state = taking.state
    for _ in range(CORPSES):
        if reply is None:
            reply = await state.client.claim(taking.pool, wanted)
            stages.end("keeper")
        lease = reply.lease
        if lease is None:
            lease = (await _queued(taking, wanted, reply))[0]
            stages.end("queue")
        try:
            await asyncio.to_thread(state.host.arm, lease, taking.personal)
        except (CorpseError, FencedError):
            # Dead, or ended before we came: the keeper knows whether the claim gets another one.
            stages.end("arm")
            corpse = {"corpse": lease.container, "corpse_token": lease.token}
            wanted = wanted.model_copy(update={**corpse, "wait_s": taking.left_s()})
            reply = None
            continue
        except GreenroomError as error:
            if isinstance(error, UsageError) or not taking.named:
                await _give_back(state, lease)
            raise
        stages.end("arm")
        state.metrics.claimed(taking.pool, stages.total_s(), warm=lease.warm)
        return _document(lease, stages)
    raise NoContainerError(f"{CORPSES} containers of pool {taking.pool} in a row were dead")


async def _give_back(state: ApiState, lease: Lease | ClaimDocument) -> None:
    """End a lease whose holder will never hear of it, or cannot use it: nobody else would."""
    order = ReleaseRequest(claim_id=lease.claim_id, token=lease.token)
    try:
        await state.client.release_by_signal(lease.pool, order)
    except GreenroomError as error:
        _log.warning("claim %s not given back, it ends by itself: %s", lease.claim_id, error)


async def _queued(taking: Taking, wanted: ClaimRequest, reply: ClaimReply) -> Sequence[Lease]:
    """Wait for a queued claim's verdict; a caller that goes away cancels the claim."""
    state, pool, claim_id = taking.state, taking.pool, wanted.claim_id
    if wanted.member:
        claim_id = member_id(claim_id, wanted.member)
    waiting = asyncio.ensure_future(
        state.client.verdict(pool, claim_id, within_s=wanted.wait_s + _GRACE_S)
    )
    leaving = asyncio.ensure_future(_gone(taking.request))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await state.client.cancel_wait(pool, claim_id)
            raise NotFoundError(f"claim {claim_id} was cancelled: its caller went away")
        verdict = waiting.result()
    finally:
        leaving.cancel()
        waiting.cancel()
    if verdict.granted():
        return verdict.granted()
    why = reply.queued.miss_reason if reply.queued else None
    if verdict.reason is EndReason.CANCELLED:
        raise NotFoundError(f"claim {claim_id} was cancelled")
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
