"""A claim that is held: commands and files in its container, its time, its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import IO, Any, Unpack

from greenroom.client import files
from greenroom.client.commands import AsyncRunningCommand, Completed, Held
from greenroom.client.documents import Grant, Released
from greenroom.client.options import Command, CommandOptions
from greenroom.client.transport import Request, Transport
from greenroom.core.errors import FencedError, GreenroomError, NotFoundError, from_code
from greenroom.core.records import SavedWork
from greenroom.core.wire import url

_log = logging.getLogger("greenroom.client")
SAVE_S = 16 * 60.0
"""How long saving a claim's work may take."""


class AsyncClaim:
    """One container that is yours until ``expires_at``. Made by ``AsyncPool.claim``."""

    def __init__(self, transport: Transport, grant: Grant) -> None:
        self._transport = transport
        self._expires_at = grant.expires_at
        self._released: Released | None = None
        self._releasing = asyncio.Lock()
        self._beating: asyncio.Task[None] | None = None
        self._lost: NotFoundError | None = None
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
        self._check()
        return AsyncRunningCommand(self._transport, self._held, Command.of(argv, options))

    async def read(self, path: str) -> bytes:
        """A file's content. Raises NotFoundError, UsageError for what is no file."""
        self._check()
        return await files.read(self._transport, self._held, path)

    async def write(self, path: str, data: bytes | str) -> None:
        """Make or replace a file and the folders above it. Raises UsageError."""
        self._check()
        content = data.encode() if isinstance(data, str) else data
        await files.write(self._transport, self._held, path, content)

    async def get_archive(self, path: str, into: IO[bytes]) -> None:
        """A file or folder as a tar stream in ``into``, which can seek. Raises NotFoundError.

        The container made it: unpack it as what a stranger sent.
        """
        self._check()
        await files.get_archive(self._transport, self._held, path, into)

    async def put_archive(self, folder: str, archive: bytes | IO[bytes]) -> None:
        """Unpack a tar stream into a folder, made if there is none. Raises UsageError."""
        self._check()
        await files.put_archive(self._transport, self._held, folder, archive)

    async def extend(self, ttl: float) -> float:
        """Have it live for ``ttl`` seconds from now, never shorter than before; its new end.

        Raises UsageError (longer than the pool allows), NotFoundError.
        """
        return await self._keep("extend", ttl_s=ttl)

    async def hold(self, seconds: float) -> float:
        """Keep it for debugging: as ``extend``, up to the pool's ``lease.max_hold``.

        No heartbeat is demanded any more.
        """
        return await self._keep("extend", ttl_s=seconds, hold=True)

    async def beat(self) -> float:
        """Say that its holder is there; when it ends. A block with ``heartbeat`` does by itself.

        Raises NotFoundError: the claim is lost, and every later call says so.
        """
        try:
            return await self._keep("heartbeat")
        except NotFoundError as error:
            self._lost = error
            raise

    async def transfer(self, holder: str) -> int:
        """Give it to another holder; the token that is good from now on.

        This object is of no use any more: every later call raises FencedError, and leaving its
        block releases nothing. The new holder finds the claim by its id.
        """
        told = await self._ask("transfer", holder=holder)
        await self.stop_beating()
        self._lost = FencedError(f"claim {self.id} was given to {holder}: it is not ours any more")
        return int(told["token"])

    def start_beating(self, heartbeat_s: float) -> None:
        """Beat every third of ``heartbeat_s`` until it is released, given away or lost."""
        self._beating = asyncio.ensure_future(self._beat(heartbeat_s / 3))

    async def stop_beating(self) -> None:
        """End ``start_beating``, if that goes on."""
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    async def release(self, *, discard: bool = False, wait: bool = True) -> Released:
        """End it; a second time is the first one's answer.

        With ``wait``, answers when its work is saved, else as soon as its end is certain. Raises
        NotFoundError when it had ended without us, and left nothing.
        """
        async with self._releasing:
            if self._released is None:
                if isinstance(self._lost, FencedError):
                    self._check()
                # Saving may take long, and the claim has ended when it begins.
                await self.stop_beating()
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

    async def _beat(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.beat()
            except NotFoundError as error:
                _log.warning("claim %s is lost: %s", self.id, error.message)
                return
            except GreenroomError as error:
                _log.warning("claim %s: a heartbeat was not heard: %s", self.id, error.message)

    async def _keep(self, what: str, **body: Any) -> float:  # noqa: ANN401 - JSON
        told = await self._ask(what, **body)
        # It never gets shorter: an answer that says so was under way while a later one came.
        self._expires_at = max(self._expires_at, float(told["expires_at"]))
        return self._expires_at

    async def _ask(self, what: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
        self._check()
        told: dict[str, Any] = await self._transport.ask(
            Request("POST", url("claims", self.id, what), {**body, "token": self.token})
        )
        return told

    def _check(self) -> None:
        """Raise what ended it, if that is known already."""
        if self._lost is not None:
            raise from_code(self._lost.code, self._lost.message) from self._lost

    async def _run(self, command: Command) -> Completed:
        self._check()
        return await AsyncRunningCommand(self._transport, self._held, command).wait()

    @property
    def _held(self) -> Held:
        return Held(self.id, self.token)
