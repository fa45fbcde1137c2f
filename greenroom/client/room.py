"""The API of a host, its pools, and taking a claim: the asynchronous side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from typing import Any, Self, Unpack

from greenroom.client.address import find_address
from greenroom.client.claim import AsyncClaim
from greenroom.client.documents import Grant, LiveClaim, Place
from greenroom.client.options import ClaimOptions, Wanted
from greenroom.client.transport import PATIENCE_S, Request, Transport
from greenroom.core.errors import BackendError, GreenroomError, NotFoundError
from greenroom.core.pool_messages import PoolStatus
from greenroom.core.wire import url

_log = logging.getLogger("greenroom.client")
_GRANTED_SOON_S = 0.5
"""How long a claim that is given up may still be answered: one that is not queued is by then."""
_GIVE_BACK_S = 5.0
_LOOK_EVERY_S = 1.0


class AsyncGreenroom:
    """The API of one host. Use it as a block, or ``close`` it.

    Which: the one that ``url`` and ``token`` name, else ``GREENROOM_URL`` and ``GREENROOM_TOKEN``,
    else this machine's own. ``verify`` is httpx's: a TLS context, or True. Raises UsageError for
    an address that is none.
    """

    def __init__(self, url: str = "", token: str = "", *, verify: Any = True) -> None:  # noqa: ANN401
        self._transport = Transport(find_address(url, token), verify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; claims go on."""
        await self._transport.close()

    def pool(self, name: str) -> AsyncPool:
        """A pool by its name; asks nothing yet."""
        return AsyncPool(self._transport, name)

    async def pools(self) -> list[PoolStatus]:
        """Every pool's status, by name."""
        found = await self._transport.ask(Request("GET", url("pools")))
        return [PoolStatus.model_validate(one) for one in found]

    async def claims(self) -> list[LiveClaim]:
        """The live claims of every pool, oldest first."""
        found = await self._transport.ask(Request("GET", url("claims")))
        return [LiveClaim.model_validate(one) for one in found]

    async def claim(self, claim_id: str) -> AsyncClaim:
        """A live claim by its id, whoever took it. Raises NotFoundError."""
        found = await self._transport.ask(Request("GET", url("claims", claim_id)))
        return AsyncClaim(self._transport, Grant.model_validate(found))


class AsyncPool:
    """One pool. Made by ``AsyncGreenroom.pool``."""

    def __init__(self, transport: Transport, name: str) -> None:
        self._transport = transport
        self.name = name

    def claim(self, **options: Unpack[ClaimOptions]) -> Claiming:
        """Ask for a container, as a block that releases it, or with ``await`` and no such end.

        Raises NoContainerError (none within ``wait``), NotFoundError (no such pool, or the claim
        of this id has ended), ConflictError (this id with another request), UsageError.
        """
        return Claiming(self._transport, Wanted.of(self.name, options))

    async def status(self) -> PoolStatus:
        """How the pool is. Raises NotFoundError."""
        return PoolStatus.model_validate(
            await self._transport.ask(Request("GET", url("pools", self.name)))
        )

    async def refresh(self) -> None:
        """Have it look at its repository now, and forgive earlier failures."""
        await self._transport.ask(Request("POST", url("pools", self.name, "refresh")))

    async def pause(self) -> None:
        """Have it prepare nothing new."""
        await self._transport.ask(Request("POST", url("pools", self.name, "pause")))

    async def resume(self) -> None:
        """End ``pause``."""
        await self._transport.ask(Request("POST", url("pools", self.name, "resume")))


class Claiming:
    """A claim that is asked for when this is awaited, or entered as a block."""

    def __init__(self, transport: Transport, wanted: Wanted) -> None:
        self._transport = transport
        self._wanted = wanted
        self._claim: AsyncClaim | None = None

    def __await__(self) -> Generator[Any, None, AsyncClaim]:
        return self.take().__await__()

    async def __aenter__(self) -> AsyncClaim:
        self._claim = await self.take()
        return self._claim

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        claim = self._claim
        if claim is None:
            return
        leaving = error is not None and not isinstance(error, Exception)
        wait = self._wanted.wait_saved and not leaving
        ending = asyncio.ensure_future(claim.release(discard=self._wanted.discard, wait=wait))
        try:
            await _finished(ending, _GIVE_BACK_S if leaving else None)
        except NotFoundError:
            return  # it had ended by itself, and whoever used it since was told so
        except GreenroomError as trouble:
            if error is None:
                raise
            # What went wrong in the block matters more.
            error.add_note(f"and claim {claim.id} is not released: {trouble.message}")

    async def take(self) -> AsyncClaim:
        """The claim; whoever is cancelled meanwhile holds nothing afterwards."""
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
        return AsyncClaim(self._transport, Grant.model_validate(granted))

    async def _give_up(self, asking: asyncio.Future[Any]) -> None:
        """Give a claim back that may have been granted, or will be in a moment.

        A queued one is cancelled by the API when it sees its caller go.
        """
        await asyncio.wait({asking}, timeout=_GRANTED_SOON_S)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await self._give_back()

    async def _give_back(self) -> None:
        wanted = self._wanted
        path = url("claims", wanted.claim_id, pool=wanted.pool, save=False, wait=False)
        try:
            await self._transport.ask(Request("DELETE", path, again_s=0.0))
        except NotFoundError:
            return
        except GreenroomError as error:
            _log.warning("claim %s is not released, it ends by itself: %s", wanted.claim_id, error)

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


async def _finished(ending: asyncio.Future[Any], within_s: float | None) -> None:
    """Wait for a clean-up although this task is being cancelled (again)."""
    try:
        async with asyncio.timeout(within_s):
            await asyncio.shield(ending)
    except asyncio.CancelledError:
        await asyncio.wait({ending}, timeout=_GIVE_BACK_S)
        raise
    except TimeoutError:
        _log.warning("not released within %s s: the claim ends by itself", within_s)
