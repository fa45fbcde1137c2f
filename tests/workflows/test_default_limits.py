"""A Temporal server with its default limits: few Updates at once on one keeper, told clearly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from temporalio import workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

from greenroom.client import PoolClient, retries
from greenroom.client.retries import NO_RETRIES
from greenroom.core.errors import OverloadedError, TemporalError
from greenroom.core.messages import (
    ClaimAnswer,
    ClaimBatch,
    ClaimBatchReply,
    ClaimReply,
    ClaimRequest,
)
from greenroom.core.names import keeper_id
from tests.workflows.server import dev_server

LIMIT = 10
"""``history.maxInFlightUpdates`` when nobody sets it."""
QUEUE = "default-limits"


@workflow.defn(sandboxed=False)
class SlowKeeper:
    """Answers claims when it is told to, and not before."""

    def __init__(self) -> None:
        self._open = False
        self._claims = 0

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.update
    async def claim(self, request: ClaimRequest) -> ClaimReply:
        self._claims += 1
        await workflow.wait_condition(lambda: self._open)
        return ClaimReply(outcome="granted")

    @workflow.update
    async def claims(self, batch: ClaimBatch) -> ClaimBatchReply:
        answers = [ClaimAnswer(reply=await self.claim(one)) for one in batch.requests]
        return ClaimBatchReply(answers=tuple(answers))

    @workflow.signal
    def open(self) -> None:
        self._open = True

    @workflow.query
    def taken(self) -> int:
        return self._claims


@pytest_asyncio.fixture(loop_scope="session")
async def client() -> AsyncIterator[Client]:
    """A client as ``connect`` makes one, of a server with nothing set."""
    async with dev_server(dynamic=()) as environment:
        address = environment.client.service_client.config.target_host
        client = await Client.connect(
            address, data_converter=pydantic_data_converter, retry_config=NO_RETRIES
        )
        async with Worker(client, task_queue=QUEUE, workflows=[SlowKeeper]):
            yield client


async def crowded(
    client: Client, pool: str
) -> tuple[WorkflowHandle[SlowKeeper, None], list[object]]:
    """A keeper with as many claims in flight as the server allows."""
    handle = await client.start_workflow(
        SlowKeeper.run,
        id=keeper_id(pool),
        task_queue=QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
    )
    claims: list[object] = [
        asyncio.create_task(
            handle.execute_update(SlowKeeper.claim, ClaimRequest(claim_id=f"c{number}"))
        )
        for number in range(LIMIT)
    ]
    while True:
        if await handle.query(SlowKeeper.taken) == LIMIT:
            return handle, claims
        await asyncio.sleep(0.02)


async def test_too_many_updates_at_once_is_an_error_that_says_what_to_do(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, claims = await crowded(client, "api")
    hasty = PoolClient(client, answer_s=1.0)
    with pytest.raises(OverloadedError) as caught:
        await hasty.claim("api", ClaimRequest(claim_id="late"))
    assert "host's API" in caught.value.message
    assert "history.maxInFlightUpdates" in caught.value.message
    # Asked again with growing pauses, and granted when there is room.
    refused = asyncio.Event()
    translate = retries._translate

    def told(error: BaseException) -> object:
        refused.set()
        return translate(error)

    monkeypatch.setattr(retries, "_translate", told)
    others = PoolClient(client)
    waiting = asyncio.create_task(others.claim("api", ClaimRequest(claim_id="later")))
    await refused.wait()
    await keeper.signal(SlowKeeper.open)
    assert (await waiting).outcome == "granted"
    await asyncio.gather(*claims)  # type: ignore[call-overload]


async def test_one_client_never_has_more_under_way_than_the_server_takes(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = await client.start_workflow(SlowKeeper.run, id=keeper_id("wide"), task_queue=QUEUE)
    await keeper.signal(SlowKeeper.open)
    monkeypatch.setattr(retries, "_crowded", lambda _: pytest.fail("the server refused one"))
    one = PoolClient(client)
    requests = [ClaimRequest(claim_id=f"w{number}") for number in range(60)]
    replies = await asyncio.gather(*(one.claim("wide", request) for request in requests))
    assert len(replies) == 60


async def test_a_server_that_is_gone_is_told_without_waiting_for_the_whole_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with dev_server() as environment:
        address = environment.client.service_client.config.target_host
        client = await Client.connect(
            address, data_converter=pydantic_data_converter, retry_config=NO_RETRIES
        )
    monkeypatch.setattr(retries, "REFUSED_S", 0.2)
    with pytest.raises(TemporalError, match="refuses connections"):
        await PoolClient(client).claim("api", ClaimRequest(claim_id="c"))
