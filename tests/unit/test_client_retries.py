"""When the client asks again, when it does not, and what failures become."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from temporalio.api.common.v1 import GrpcStatus
from temporalio.api.errordetails.v1 import WorkflowNotReadyFailure
from temporalio.client import (
    RPCTimeoutOrCancelledError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from greenroom.client import PoolClient, retries
from greenroom.core.errors import (
    ConflictError,
    GreenroomError,
    LiveClaimsError,
    NotFoundError,
    TemporalError,
)
from greenroom.core.messages import (
    ClaimReply,
    ClaimRequest,
    ExtendReply,
    ExtendRequest,
    Queued,
)

REPLY = ClaimReply(
    outcome="queued",
    queued=Queued(position=1, eta_s=1.0, wait_workflow="w", miss_reason="pool_empty"),
)


def refused(code: str, **details: object) -> WorkflowUpdateFailedError:
    return WorkflowUpdateFailedError(ApplicationError(f"it is {code}", details, type=code))


def rpc(status: RPCStatusCode, detail: object = None) -> RPCError:
    grpc = GrpcStatus()
    if detail is not None:
        packed = AnyMessage()
        packed.Pack(detail)  # type: ignore[arg-type]
        grpc.details.append(packed)
    return RPCError(str(status), status, grpc.SerializeToString())


class FakeTemporal:
    """Answers Updates from a script of results and errors; ``pools`` are those it lists."""

    def __init__(self, *script: object, pools: tuple[str, ...] = ()) -> None:
        self.script = list(script)
        self.asked: list[Any] = []
        self.ids: list[str] = []
        self._pools = pools

    def get_workflow_handle(self, ident: str, **_: object) -> FakeTemporal:
        return self

    async def execute_update(self, name: str, request: object, **options: Any) -> object:
        self.asked.append(request)
        self.ids.append(options["id"])
        answer = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(answer, BaseException):
            raise answer
        if callable(answer):
            return await answer()
        return answer

    async def list_workflows(self, query: str) -> Any:
        for name in self._pools:
            yield type("Found", (), {"id": f"greenroom/pool/{name}"})


REQUEST = ClaimRequest(claim_id="c1")


async def claim(temporal: FakeTemporal, within_s: float = 5.0) -> ClaimReply:
    client = PoolClient(temporal, answer_s=within_s)  # type: ignore[arg-type]
    return await client.claim("api", REQUEST)


@pytest.mark.parametrize(
    "passing",
    [
        lambda: refused("draining"),
        lambda: refused("AcceptedUpdateCompletedWorkflow"),
        lambda: rpc(RPCStatusCode.RESOURCE_EXHAUSTED),
        lambda: rpc(RPCStatusCode.UNAVAILABLE),
        lambda: RPCError("transport error", RPCStatusCode.UNKNOWN, b""),
        lambda: rpc(RPCStatusCode.FAILED_PRECONDITION, WorkflowNotReadyFailure()),
    ],
    ids=["draining", "closed-under-us", "exhausted", "unavailable", "broken-off", "not-ready"],
)
async def test_what_passes_is_asked_again_with_the_same_request(
    passing: Callable[[], BaseException],
) -> None:
    temporal = FakeTemporal(passing(), passing(), REPLY)
    assert await claim(temporal) == REPLY
    assert temporal.asked == [REQUEST] * 3


async def test_after_a_lost_connection_the_same_update_is_waited_for() -> None:
    lost, draining = rpc(RPCStatusCode.UNAVAILABLE), refused("draining")
    temporal = FakeTemporal(lost, lost, draining, lost, REPLY)
    await claim(temporal)
    first, second, third, fourth, fifth = temporal.ids
    assert first == second == third != fourth == fifth, "an answered one is not asked for again"


@pytest.mark.parametrize(
    ("final", "error"),
    [
        (refused("conflict"), ConflictError),
        (refused("not_found"), NotFoundError),
        (refused("no_such_code"), GreenroomError),
        (rpc(RPCStatusCode.FAILED_PRECONDITION), TemporalError),
        (rpc(RPCStatusCode.PERMISSION_DENIED), TemporalError),
        (WorkflowUpdateRPCTimeoutOrCancelledError(), TemporalError),
        (RPCTimeoutOrCancelledError(), TemporalError),
    ],
)
async def test_what_does_not_pass_is_told_at_once(
    final: BaseException, error: type[GreenroomError]
) -> None:
    temporal = FakeTemporal(final)
    with pytest.raises(error):
        await claim(temporal)
    assert len(temporal.asked) == 1


async def test_an_errors_details_come_back() -> None:
    with pytest.raises(LiveClaimsError) as caught:
        await claim(FakeTemporal(refused("live_claims", claims="a,b")))
    assert caught.value.details == {"claims": "a,b"}
    assert caught.value.message == "it is live_claims"


async def test_an_unknown_pool_is_told_with_those_that_there_are() -> None:
    gone = rpc(RPCStatusCode.NOT_FOUND)
    with pytest.raises(NotFoundError, match="no pool api; pools: web, worker"):
        await claim(FakeTemporal(gone, pools=("worker", "web")))
    with pytest.raises(NotFoundError, match="pools: none yet"):
        await claim(FakeTemporal(gone))


async def test_the_total_time_is_the_clients_own() -> None:
    never = asyncio.Event()
    with pytest.raises(TemporalError, match=r"within 0\.05 s"):
        await claim(FakeTemporal(never.wait), within_s=0.05)
    with pytest.raises(TemporalError, match=r"within 0\.05 s"):
        await claim(FakeTemporal(refused("draining")), within_s=0.05)


async def test_a_server_that_only_refuses_is_given_up_soon_and_one_that_is_slow_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = RPCError("tcp connect error", RPCStatusCode.UNAVAILABLE, b"")
    monkeypatch.setattr(retries, "REFUSED_S", 0.1)
    with pytest.raises(TemporalError, match="refuses connections"):
        await claim(FakeTemporal(refused), within_s=30)
    # A restart: refused for a moment, then there, though not quite ready.
    monkeypatch.setattr(retries, "REFUSED_S", 3600)
    temporal = FakeTemporal(refused, refused, rpc(RPCStatusCode.UNAVAILABLE), refused, REPLY)
    assert await claim(temporal) == REPLY
    # There all the time, and unavailable: the whole time is borne.
    monkeypatch.setattr(retries, "REFUSED_S", 0.0)
    with pytest.raises(TemporalError, match=r"within 0\.1 s"):
        await claim(FakeTemporal(rpc(RPCStatusCode.UNAVAILABLE)), within_s=0.1)


async def test_updates_at_once_are_bounded() -> None:
    running, most, go, full = 0, 0, asyncio.Event(), asyncio.Event()

    async def slow() -> ExtendReply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        await go.wait()
        running -= 1
        return ExtendReply(expires_at=1.0)

    client = PoolClient(FakeTemporal(slow), in_flight=3)  # type: ignore[arg-type]
    wanted = ExtendRequest(token=1, ttl_s=60)
    asked = [asyncio.ensure_future(client.extend("container", wanted)) for _ in range(10)]
    async with asyncio.timeout(30):
        await full.wait()
    go.set()
    await asyncio.gather(*asked)
    assert most == 3
