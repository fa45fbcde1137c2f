"""A claim that is held: commands and files in its container, its time, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Unpack

from greenroom.client import files
from greenroom.client.commands import AsyncRunningCommand, Completed, Held
from greenroom.client.documents import Grant, Released
from greenroom.client.options import Command, CommandOptions
from greenroom.client.transport import Request, Transport
from greenroom.core.errors import FencedError, NotFoundError
from greenroom.core.records import SavedWork
from greenroom.core.wire import url

SAVE_S = 16 * 60.0
"""How long saving a claim's work may take."""


class AsyncClaim:
    """One container that is yours until ``expires_at``. Made by ``AsyncPool.claim``."""

    def __init__(self, transport: Transport, grant: Grant) -> None:
        self._transport = transport
        self._expires_at = grant.expires_at
        self._released: Released | None = None
        self._releasing = asyncio.Lock()
        self.grant = grant
        """All that the API said when it granted it."""

    def __repr__(self) -> str:
        return f"<claim {self.id} of pool {self.pool}, container {self.container}>"

    @property
    def id(self) -> str:
        """The claim's id: with it, another program can find the same claim."""
        return self.grant.claim_id

    @property
    def pool(self) -> str:
        return self.grant.pool

    @property
    def container(self) -> str:
        return self.grant.container

    @property
    def token(self) -> int:
        """The fencing token, which grows with every grant of the pool."""
        return self.grant.token

    @property
    def expires_at(self) -> float:
        """When it ends by itself, in epoch seconds."""
        return self._expires_at

    async def exec(self, argv: Sequence[str], **options: Unpack[CommandOptions]) -> Completed:
        """Run a command to its end, keeping its output.

        Raises CommandError (with ``check``), CommandTimeoutError, NotFoundError when the claim has
        ended, BackendError when the connection breaks: the command is killed then.
        """
        return await self._run(Command.of(argv, options))

    def stream(self, argv: Sequence[str], **options: Unpack[CommandOptions]) -> AsyncRunningCommand:
        """A command to iterate over: its output as it comes. Raises as ``exec``."""
        return AsyncRunningCommand(self._transport, self._held, Command.of(argv, options))

    async def read(self, path: str) -> bytes:
        """A file's content. Raises NotFoundError."""
        return await files.read(self._run, path)

    async def write(self, path: str, data: bytes | str) -> None:
        """Make or replace a file and the folders above it. Raises UsageError."""
        await files.write(self._run, path, data.encode() if isinstance(data, str) else data)

    async def extend(self, ttl: float) -> float:
        """Have it live for ``ttl`` seconds from now, never shorter than before; its new end.

        Raises UsageError (longer than the pool allows), NotFoundError.
        """
        told = await self._transport.ask(
            Request("POST", url("claims", self.id, "extend"), {"ttl_s": ttl, "token": self.token})
        )
        self._expires_at = float(told["expires_at"])
        return self._expires_at

    async def release(self, *, discard: bool = False, wait: bool = True) -> Released:
        """End it; a second time is the first one's answer.

        With ``wait``, answers when its work is saved, else as soon as its end is certain. Raises
        NotFoundError when it had ended without us, and left nothing.
        """
        async with self._releasing:
            if self._released is None:
                self._released = await self._release(discard=discard, wait=wait)
            return self._released

    async def _release(self, *, discard: bool, wait: bool) -> Released:
        path = url("claims", self.id, token=self.token, pool=self.pool, save=not discard, wait=wait)
        try:
            told = await self._transport.ask(Request("DELETE", path, timeout_s=SAVE_S))
        except FencedError:
            raise
        except NotFoundError:
            # Ended already: by an answer to us that was lost, or by its time.
            if (saved := await self._saved()) is None:
                raise
            return Released(claim_id=self.id, container=self.container, saved=saved)
        return Released.model_validate(told)

    async def _saved(self) -> SavedWork | None:
        found = await self._transport.ask(Request("GET", url("saved", claim=self.id)))
        mine = [work for work in found if work["pool"] == self.pool]
        return SavedWork.model_validate(mine[0]) if mine else None

    async def _run(self, command: Command) -> Completed:
        return await AsyncRunningCommand(self._transport, self._held, command).wait()

    @property
    def _held(self) -> Held:
        return Held(self.id, self.token)
