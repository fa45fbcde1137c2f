"""Claims of one process on one pool, sent together when they come together.

There is no window to wait for: a lone claim goes at once as an Update of its own, and what comes
while that is on its way goes in the next Update, all at once. So one process has at most one
Update of claims in flight on a keeper, however many callers it has, and a burst costs a few
workflow tasks instead of one each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from greenroom.core.errors import GreenroomError
from greenroom.core.messages import ClaimReply, ClaimRequest

MOST = 100
"""Containers asked for in one Update: the answers stay far below what one message may carry, and
the keeper, whose queue may be long, far below the 2 s that a workflow task may compute."""
MOST_BYTES = 512 * 1024
"""Of the requests in one Update. A claim beyond either bound goes alone."""

Answer = ClaimReply | GreenroomError
Asking = tuple[ClaimRequest, "asyncio.Future[ClaimReply]"]
Send = Callable[[Sequence[ClaimRequest]], Awaitable[Sequence[Answer]]]
"""Sends requests in one Update; returns their answers in the same order."""


class Coalescer:
    """See the module. What ``send`` raises answers all of its claims."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: list[Asking] = []
        self._sending: asyncio.Task[None] | None = None

    async def claim(self, request: ClaimRequest) -> ClaimReply:
        """The answer to one claim. Raises what the keeper or ``send`` raises."""
        answer: asyncio.Future[ClaimReply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._sending is None:
            self._sending = asyncio.create_task(self._drain())
        return await answer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                # Whoever has gone away in the meantime needs no container.
                batch = _first([each for each in self._waiting if not each[1].done()])
                sent = {id(answer) for _, answer in batch}
                self._waiting = [
                    each for each in self._waiting if id(each[1]) not in sent and not each[1].done()
                ]
                if batch:
                    await self._send_batch(batch)
        finally:
            self._sending = None

    async def _send_batch(self, batch: list[Asking]) -> None:
        answers: Sequence[Answer | Exception]
        try:
            told = await self._send([request for request, _ in batch])
            answers = [answer for _, answer in zip(batch, told, strict=True)]
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - each caller gets it, and those behind go on
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _first(waiting: list[Asking]) -> list[Asking]:
    """As many of the first claims as one Update may carry; at least one."""
    containers = size = 0
    for number, (request, _) in enumerate(waiting):
        containers += request.count
        size += len(request.model_dump_json())
        if number and (containers > MOST or size > MOST_BYTES):
            return waiting[:number]
    return waiting
