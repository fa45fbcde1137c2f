"""Taking claims, one or a group at once, and giving them back: the asynchronous side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from typing import Any

from greenroom.client.claim import AsyncClaim
from greenroom.client.documents import Grant, Place
from greenroom.client.options import Wanted
from greenroom.client.transport import PATIENCE_S, Request, Transport
from greenroom.core.errors import BackendError, GreenroomError, NotFoundError
from greenroom.core.wire import url

_log = logging.getLogger("greenroom.client")
_GRANTED_SOON_S = 0.5
"""How long a claim that is given up may still be answered: one that is not queued is by then."""
_GIVE_BACK_S = 5.0
_LOOK_EVERY_S = 1.0


class Claiming:
    """A claim that is asked for when this is awaited, or entered as a block."""

    def __init__(self, transport: Transport, wanted: Wanted) -> None:
        self._taking = _Taking(transport, wanted)

    def __await__(self) -> Generator[Any, None, AsyncClaim]:
        return self.take().__await__()

    async def __aenter__(self) -> AsyncClaim:
        return (await self._taking.enter())[0]

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._taking.leave(error)

    async def take(self) -> AsyncClaim:
        """The claim; whoever is cancelled meanwhile holds nothing afterwards."""
        return (await self._taking.take())[0]


class ClaimingMany:
    """A group of claims, as ``Claiming`` is one: all of them are taken, and all given back."""

    def __init__(self, transport: Transport, wanted: Wanted) -> None:
        self._taking = _Taking(transport, wanted)

    def __await__(self) -> Generator[Any, None, list[AsyncClaim]]:
        return self.take().__await__()

    async def __aenter__(self) -> list[AsyncClaim]:
        return list(await self._taking.enter())

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._taking.leave(error)

    async def take(self) -> list[AsyncClaim]:
        """The claims; whoever is cancelled meanwhile holds nothing afterwards."""
        return await self._taking.take()


class _Taking:
    """What one request grants."""

    def __init__(self, transport: Transport, wanted: Wanted) -> None:
        self._transport = transport
        self._wanted = wanted
        self._claims: list[AsyncClaim] = []

    async def enter(self) -> list[AsyncClaim]:
        """Take them, for a block."""
        self._claims = await self.take()
        if self._wanted.heartbeat_s > 0:
            for claim in self._claims:
                claim.start_beating(self._wanted.heartbeat_s)
        return self._claims

    async def leave(self, error: BaseException | None) -> None:
        """End all of them, at once, as the block ends."""
        leaving = error is not None and not isinstance(error, Exception)
        wait = self._wanted.wait_saved and not leaving
        ending = asyncio.gather(
            *(claim.release(discard=self._wanted.discard, wait=wait) for claim in self._claims),
            return_exceptions=True,
        )
        if not await _finished(ending, _GIVE_BACK_S if leaving else None):
            return
        first = error
        for claim, trouble in zip(self._claims, ending.result(), strict=True):
            if not isinstance(trouble, BaseException) or isinstance(trouble, NotFoundError):
                continue  # not found: it had ended by itself, and whoever used it was told so
            if first is None or not isinstance(trouble, GreenroomError):
                first = trouble
            else:
                # What went wrong before matters more.
                first.add_note(f"and claim {claim.id} is not released: {trouble.message}")
        if first is not None and first is not error:
            raise first

    async def take(self) -> list[AsyncClaim]:
        """Ask for them; whoever is cancelled meanwhile holds nothing afterwards."""
        wanted = self._wanted
        asking = asyncio.ensure_future(
            self._transport.ask(
                Request(
                    "POST", url("pools", wanted.pool, "claims"), wanted.body,
                    timeout_s=wanted.wait_s + PATIENCE_S,
                )
            )
        )  # fmt: skip
        looking = asyncio.ensure_future(self._look())
        try:
            granted = await asyncio.shield(asking)
        except asyncio.CancelledError:
            await _finished(asyncio.ensure_future(self._give_up(asking)), _GIVE_BACK_S)
            raise
        except BackendError:
            if not wanted.named:
                # Nobody will ask for this id again. In the background: what does not answer now
                # would not answer that either, and the lease ends by itself.
                self._transport.in_background(self._give_back())
            raise
        finally:
            looking.cancel()
        grants = map(Grant.model_validate, granted.get("claims", [granted]))
        return [AsyncClaim(self._transport, grant) for grant in grants]

    async def _give_up(self, asking: asyncio.Future[Any]) -> None:
        """Give a claim back that may have been granted, or will be in a moment.

        A queued one is cancelled by the API when it sees its caller go.
        """
        await asyncio.wait({asking}, timeout=_GRANTED_SOON_S)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await self._give_back()

    async def _give_back(self) -> None:
        await asyncio.gather(*map(self._give_one_back, self._wanted.ids))

    async def _give_one_back(self, claim_id: str) -> None:
        path = url("claims", claim_id, pool=self._wanted.pool, save=False, wait=False)
        try:
            await self._transport.ask(Request("DELETE", path, again_s=0.0))
        except NotFoundError:
            return
        except GreenroomError as error:
            _log.warning("claim %s is not released, it ends by itself: %s", claim_id, error)

    async def _look(self) -> None:
        """Tell the caller its place while the claim is queued."""
        wanted = self._wanted
        path = url("pools", wanted.pool, "queue", wanted.claim_id)
        while wanted.on_queued is not None:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                found = await self._transport.ask(Request("GET", path, again_s=0.0))
            except GreenroomError as error:
                _log.debug("no place in the queue: %s", error)
                continue
            wanted.on_queued(Place.model_validate(found))


async def _finished(ending: asyncio.Future[Any], within_s: float | None) -> bool:
    """Wait for a clean-up although this task is being cancelled (again); whether it ended."""
    try:
        async with asyncio.timeout(within_s):
            await asyncio.shield(ending)
    except asyncio.CancelledError:
        await asyncio.wait({ending}, timeout=_GIVE_BACK_S)
        raise
    except TimeoutError:
        _log.warning("not released within %s s: the claim ends by itself", within_s)
        return False
    return True
