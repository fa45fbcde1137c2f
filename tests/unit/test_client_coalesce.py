"""Claims that come together go together, a lone one goes at once, and each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from greenroom.client import PoolClient
from greenroom.client.coalesce import MOST, MOST_BYTES, Answer, Coalescer
from greenroom.core.errors import ConflictError, TemporalError, UsageError
from greenroom.core.messages import ClaimReply, ClaimRequest


def reply(request: ClaimRequest) -> ClaimReply:
    return ClaimReply.model_validate(
        {
            "outcome": "queued",
            "queued": {
                "position": 1,
                "eta_s": 0.0,
                "wait_workflow": request.claim_id,
                "miss_reason": "pool_empty",
            },
        }
    )


@dataclass
class Keeper:
    """Answers each claim with its own id; holds back its answers until ``open`` is set."""

    batches: list[list[str]] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: BaseException | None = None
    at_once: int = 0

    async def send(self, requests: Sequence[ClaimRequest]) -> Sequence[Answer]:
        self.batches.append([request.claim_id for request in requests])
        self.at_once += 1
        assert self.at_once == 1, "two Updates in flight"
        await self.open.wait()
        self.at_once -= 1
        if self.trouble is not None:
            raise self.trouble
        return [
            ConflictError("no") if request.claim_id.startswith("bad") else reply(request)
            for request in requests
        ]


async def start(coalescer: Coalescer, *ids: str) -> list[asyncio.Task[ClaimReply]]:
    tasks = [asyncio.create_task(coalescer.claim(ClaimRequest(claim_id=one))) for one in ids]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_a_lone_claim_goes_at_once_and_what_piles_up_goes_together() -> None:
    keeper = Keeper()
    coalescer = Coalescer(keeper.send)
    first = await start(coalescer, "a")
    assert keeper.batches == [["a"]]
    rest = await start(coalescer, "b", "bad", "c")
    assert keeper.batches == [["a"]]
    keeper.open.set()
    answers = await asyncio.gather(*first, *rest, return_exceptions=True)
    assert keeper.batches == [["a"], ["b", "bad", "c"]]
    assert isinstance(answers[2], ConflictError)
    told = [
        one.queued.wait_workflow for one in answers if isinstance(one, ClaimReply) and one.queued
    ]
    assert told == ["a", "b", "c"]


async def test_a_burst_is_cut_into_messages_of_bounded_size() -> None:
    keeper = Keeper()
    coalescer = Coalescer(keeper.send)
    tasks = await start(coalescer, *(f"c{n}" for n in range(2 * MOST + 5)))
    keeper.open.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in keeper.batches] == [MOST, MOST, 5]


async def test_a_message_is_bounded_in_containers_and_bytes_too() -> None:
    keeper = Keeper()
    coalescer = Coalescer(keeper.send)
    text = "x" * (MOST_BYTES // 2)
    asked = [
        ClaimRequest(claim_id="first"),
        ClaimRequest(claim_id="big", count=2 * MOST),
        ClaimRequest(claim_id="one", count=MOST - 1),
        ClaimRequest(claim_id="two"),
        ClaimRequest(claim_id="over"),
        ClaimRequest(claim_id="long", labels={"a": text}),
        ClaimRequest(claim_id="longer", labels={"a": text}),
    ]
    tasks = []
    for request in asked:
        tasks.append(asyncio.create_task(coalescer.claim(request)))
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)
    keeper.open.set()
    await asyncio.gather(*tasks)
    assert keeper.batches == [["first"], ["big"], ["one", "two"], ["over", "long"], ["longer"]]


async def test_who_went_away_is_not_asked_for() -> None:
    keeper = Keeper()
    coalescer = Coalescer(keeper.send)
    first = await start(coalescer, "a")
    gone, kept = await start(coalescer, "gone", "kept")
    gone.cancel()
    await asyncio.wait({gone})
    keeper.open.set()
    await asyncio.gather(*first, kept)
    assert keeper.batches == [["a"], ["kept"]]


async def test_an_update_that_fails_answers_all_of_its_claims_and_no_other() -> None:
    keeper = Keeper(trouble=TemporalError("away"))
    coalescer = Coalescer(keeper.send)
    keeper.open.set()
    [first] = await start(coalescer, "a")
    with pytest.raises(TemporalError):
        await first
    keeper.trouble = None
    [second] = await start(coalescer, "b")
    assert (await second).queued


async def test_a_bug_in_sending_leaves_nobody_waiting() -> None:
    keeper = Keeper(trouble=ZeroDivisionError())
    coalescer = Coalescer(keeper.send)
    keeper.open.set()
    tasks = await start(coalescer, "a", "b")
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, ZeroDivisionError) for answer in answers)


async def test_a_bug_in_one_update_leaves_nobody_behind_it_waiting() -> None:
    keeper = Keeper(trouble=ZeroDivisionError())
    coalescer = Coalescer(keeper.send)
    first = await start(coalescer, "a")
    behind = await start(coalescer, "b", "c")
    keeper.open.set()
    answers = await asyncio.wait_for(
        asyncio.gather(*first, *behind, return_exceptions=True), timeout=10
    )
    assert all(isinstance(answer, ZeroDivisionError) for answer in answers)
    assert keeper.batches == [["a"], ["b", "c"]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"claim_id": "no/name"},
        {"env": {"TOKEN": "s3cret"}},
        {"labels": {"a": "x" * 2_000_000}},
        {"wait_s": 1e14},
        {"reply_to": "é" * 600},
    ],
)
async def test_a_wrong_claim_never_shares_an_update_with_others(wrong: dict[str, object]) -> None:
    client = PoolClient(None)  # type: ignore[arg-type]  # it is refused before anything is sent
    with pytest.raises(UsageError):
        await client.claim("api", ClaimRequest.model_validate({"claim_id": "a", **wrong}))
