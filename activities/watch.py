"""Watches the engine: deaths become Signals at once, and every 20 s everything is compared."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from activities.boundary import boundary
from activities.context import HostContext, find_namespace_id
from activities.engine import Json
from activities.orphans import Owner, is_parked, owners_to_ask
from activities.profiles import own_label
from activities.slotfiles import all_slots, read_slot
from activities.sweep import Swept, gather, sweep
from greenroom.core.errors import EngineError, TemporalError
from greenroom.core.messages import Died
from greenroom.core.names import LABEL_CONTAINER
from greenroom.core.pool_messages import HostInput
from greenroom.core.records import Done
from greenroom.core.slotfile import SlotRecord

COMPARE_EVERY_S = 20.0
_BEAT_S = 3.0
_AT_ONCE = 5
_LOG = logging.getLogger(__name__)


class Watch:
    """The one long activity of a host."""

    def __init__(self, ctx: HostContext, client: Client | None = None) -> None:
        """``client``: instead of the context's own."""
        known = client or ctx.client
        if known is None:
            raise ValueError("the watch needs a Temporal client")
        self._ctx = ctx
        self._client = known

    @activity.defn(name="watch")
    @boundary
    async def watch(self, asked: HostInput) -> Done:  # noqa: ARG002  (who asks is who we are)
        """Run until the worker stops or the engine goes away. Raises EngineError."""
        told: set[str] = set()
        compared_at = 0.0
        async with _events(self._ctx) as queue:
            while not activity.is_worker_shutdown():
                activity.heartbeat()
                if time.monotonic() - compared_at >= COMPARE_EVERY_S:
                    compared_at = time.monotonic()
                    await self.compare(told)
                await self._next_event(queue, told)
        return Done()

    async def compare(self, told: set[str]) -> Swept:
        """Tell of containers that died unseen, and sweep. ``told`` holds Docker ids told of."""
        beating = asyncio.create_task(_beat())
        try:
            for record in await asyncio.to_thread(_dead, self._ctx):
                await self._tell(record, "found not running", told)
            facts = await asyncio.to_thread(gather, self._ctx)
            owners = await self._owners(owners_to_ask(facts))
            await self._check_namespace()
            swept = await asyncio.to_thread(sweep, self._ctx, facts, owners)
        finally:
            beating.cancel()
        if swept != Swept():
            _LOG.info("swept: %s", swept)
        return swept

    async def _check_namespace(self) -> None:
        """Raise TemporalError unless the answers came from the namespace that we know.

        Another one of the same name (a server made anew, another cluster) knows none of our
        workflows, and a namespace that is not there answers "not found" too.
        """
        try:
            found = await find_namespace_id(self._client)
        except RPCError as error:
            raise TemporalError(f"Temporal does not answer: {error.message}") from error
        if found != self._ctx.namespace_id:
            raise TemporalError(
                f"the Temporal namespace {self._client.namespace} is not the one that this worker "
                "began with: nothing is swept; restart the services",
            )

    async def _next_event(self, queue: asyncio.Queue[Json | EngineError], told: set[str]) -> None:
        try:
            event = await asyncio.wait_for(queue.get(), _BEAT_S)
        except TimeoutError:
            return
        if isinstance(event, EngineError):
            raise event
        attributes = event.get("Actor", {}).get("Attributes", {})
        record = read_slot(self._ctx.paths, str(attributes.get(LABEL_CONTAINER, "")))
        if record is not None and is_parked(record) and record.docker_id == event.get("id"):
            code = attributes.get("exitCode")
            detail = event["Action"] if code is None else f"{event['Action']}, exit code {code}"
            await self._tell(record, detail, told)

    async def _tell(self, record: SlotRecord, detail: str, told: set[str]) -> None:
        if record.docker_id in told:
            return
        handle = self._client.get_workflow_handle(record.workflow_id)
        try:
            await handle.signal("died", Died(docker_id=record.docker_id, detail=detail))
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise TemporalError(f"Temporal does not answer: {error.message}") from error
            # Nobody to tell: the sweep takes it away.
        told.add(record.docker_id)

    async def _owners(self, workflows: set[str]) -> dict[str, Owner]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def ask(workflow: str) -> tuple[str, Owner]:
            async with gate:
                return workflow, await self._owner(workflow)

        return dict(await asyncio.gather(*(ask(workflow) for workflow in sorted(workflows))))

    async def _owner(self, workflow: str) -> Owner:
        try:
            seen = await self._client.get_workflow_handle(workflow).describe()
        except RPCError as error:
            return Owner.GONE if error.status is RPCStatusCode.NOT_FOUND else Owner.UNKNOWN
        except ValueError:
            return Owner.UNKNOWN  # a state that this SDK has no name for
        if seen.status is None:
            return Owner.UNKNOWN
        open_ones = (WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW)
        return Owner.OPEN if seen.status in open_ones else Owner.GONE


async def _beat() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(_BEAT_S)


@asynccontextmanager
async def _events(ctx: HostContext) -> AsyncIterator[asyncio.Queue[Json | EngineError]]:
    """The engine's events about this install's containers; an EngineError ends them."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Json | EngineError] = asyncio.Queue()
    stopped = asyncio.Event()
    filters = {
        "type": ["container"],
        "event": ["die"],
        "label": [f"{key}={value}" for key, value in own_label(ctx).items()],
    }

    def read() -> None:
        try:
            for event in ctx.engine.events(filters, stopped.is_set):
                if event:
                    loop.call_soon_threadsafe(queue.put_nowait, event)
        except EngineError as error:
            loop.call_soon_threadsafe(queue.put_nowait, error)

    reading = asyncio.create_task(asyncio.to_thread(read))
    try:
        yield queue
    finally:
        stopped.set()
        await reading


def _dead(ctx: HostContext) -> list[SlotRecord]:
    """The lease files whose container should be running and is not."""
    found = []
    for name in all_slots(ctx.paths):
        record = read_slot(ctx.paths, name)
        if record is None or not is_parked(record):
            continue
        seen = ctx.engine.inspect(record.docker_id)
        if seen is None or not seen["State"]["Running"]:
            found.append(record)
    return found
