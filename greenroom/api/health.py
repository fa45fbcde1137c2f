"""Is this process alive, and does all that a claim needs answer?"""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from greenroom.api import pools
from greenroom.api.state import ApiState, State
from greenroom.core.errors import GreenroomError

router = APIRouter()
_FRESH_S = 1.0
_PATIENCE_S = 5.0


class Health(BaseModel):
    ok: bool = True


class Item(BaseModel):
    """``detail`` says what is wrong."""

    ok: bool
    detail: str = ""


class Readiness(BaseModel):
    """``items``: ``temporal``, ``docker``, ``gate``. ``ok`` when all of them are."""

    ok: bool
    items: dict[str, Item]


@router.get("/healthz")
async def healthz() -> Health:
    """Whether this process answers."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(state: State, request: Request, response: Response) -> Readiness:
    """Whether Temporal, Docker and the gate answer, each with its state; 503 when one does not."""
    probe: ReadinessProbe = request.app.state.readiness
    found = await probe.now(state)
    response.status_code = 200 if found.ok else 503
    return found


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(state: State) -> Response:
    """The pools' counts in Prometheus' text format."""
    found = await pools.statuses(state)
    return Response(
        state.metrics.render(found), media_type="text/plain; version=0.0.4; charset=utf-8"
    )


class ReadinessProbe:
    """Asks all there is to ask, at most once a second whoever wants to know."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._known: Readiness | None = None
        self._at = 0.0

    async def now(self, state: ApiState) -> Readiness:
        """What was found a second ago at most."""
        async with self._lock:
            if self._known is None or time.monotonic() - self._at > _FRESH_S:
                self._known = await _look(state)
                self._at = time.monotonic()
            return self._known


async def _look(state: ApiState) -> Readiness:
    temporal, host = await asyncio.gather(_temporal(state), asyncio.to_thread(state.host.check))
    found = {"temporal": temporal, **host}
    items = {name: Item(ok=not wrong, detail=wrong) for name, wrong in found.items()}
    return Readiness(ok=all(item.ok for item in items.values()), items=items)


async def _temporal(state: ApiState) -> str:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await state.client.pools()
    except TimeoutError:
        return f"does not answer within {_PATIENCE_S:g} s"
    except GreenroomError as error:
        return error.message
    return ""
