"""The API of a host, its pools, what ended claims left: the asynchronous side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, Unpack

from greenroom.client import task
from greenroom.client.address import find_address
from greenroom.client.claim import AsyncClaim
from greenroom.client.claiming import Claiming, ClaimingMany
from greenroom.client.documents import Grant, LiveClaim, SavedRecord
from greenroom.client.options import ClaimOptions, Wanted
from greenroom.client.saved import AsyncSaved
from greenroom.client.task import AsyncTask, TaskOptions
from greenroom.client.transport import Request, Transport
from greenroom.core.errors import NotFoundError
from greenroom.core.pool_messages import PoolStatus
from greenroom.core.wire import url


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
        return [LiveClaim.model_validate(one) for one in found if one["state"] != "queued"]

    async def claim(self, claim_id: str) -> AsyncClaim:
        """A live claim by its id, whoever took it. Raises NotFoundError."""
        found = await self._transport.ask(Request("GET", url("claims", claim_id)))
        if "token" not in found:
            raise NotFoundError(f"claim {claim_id} is not live: it is {found['state']}")
        return AsyncClaim(self._transport, Grant.model_validate(found))

    async def saved(self, claim_id: str = "") -> list[AsyncSaved]:
        """What ended claims left, newest first; of one claim when it is named."""
        path = url("saved", claim=claim_id or None)
        found = await self._transport.ask(Request("GET", path))
        return [AsyncSaved(self._transport, SavedRecord.model_validate(one)) for one in found]


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

    def claim_many(
        self, count: int, *, partial: bool = False, **options: Unpack[ClaimOptions]
    ) -> ClaimingMany:
        """As ``claim``, for ``count`` containers that are granted at once, or none.

        ``partial``: takes as many as there are. Each is a claim of its own, named ``claim_id.1``
        and so on. Leaving the block releases all.
        """
        wanted = Wanted.of(self.name, options).group(count, partial=partial)
        return ClaimingMany(self._transport, wanted)

    async def start_task(self, argv: Sequence[str], **options: Unpack[TaskOptions]) -> AsyncTask:
        """Start a command in a container of its own, which needs no program to wait for it.

        Raises NotFoundError, UsageError, ConflictError (a Task of this id has ended already).
        """
        return await task.start(self._transport, self.name, argv, options)

    def task(self, claim_id: str) -> AsyncTask:
        """A Task by its id; asks nothing yet."""
        return AsyncTask(self._transport, self.name, claim_id)

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
