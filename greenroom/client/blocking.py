"""The blocking twin of ``AsyncGreenroom``: the same calls, for programs without an event loop.

An object may be used by several threads. Callbacks are called from a thread of the client's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self, Unpack

from greenroom.client.claim import AsyncClaim
from greenroom.client.claiming import Claiming, ClaimingMany
from greenroom.client.commands import AsyncRunningCommand, Chunk, Completed
from greenroom.client.documents import Grant, LiveClaim, Released, SavedRecord, ShownWork
from greenroom.client.options import ClaimOptions, CommandOptions
from greenroom.client.portal import Portal
from greenroom.client.room import AsyncGreenroom, AsyncPool
from greenroom.client.saved import AsyncSaved
from greenroom.client.task import AsyncTask, TaskOptions
from greenroom.core.pool_messages import PoolStatus
from greenroom.core.task_messages import TaskResult


class Greenroom:
    """The API of one host. See ``AsyncGreenroom``. Use it as a block, or ``close`` it."""

    def __init__(self, url: str = "", token: str = "", *, verify: Any = True) -> None:  # noqa: ANN401
        self._portal = Portal()
        try:
            self._room = self._portal.run(_made(url, token, verify))
        except BaseException:
            self._portal.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; claims go on."""
        self._portal.run(self._room.close())
        self._portal.close()

    def pool(self, name: str) -> Pool:
        """A pool by its name; asks nothing yet."""
        return Pool(self._portal, self._room.pool(name))

    def pools(self) -> list[PoolStatus]:
        """Every pool's status, by name."""
        return self._portal.run(self._room.pools())

    def claims(self) -> list[LiveClaim]:
        """The live claims of every pool, oldest first."""
        return self._portal.run(self._room.claims())

    def claim(self, claim_id: str) -> Claim:
        """A live claim by its id, whoever took it. Raises NotFoundError."""
        return Claim(self._portal, self._portal.run(self._room.claim(claim_id)))

    def saved(self, claim_id: str = "") -> list[Saved]:
        """What ended claims left, newest first; of one claim when it is named."""
        found = self._portal.run(self._room.saved(claim_id))
        return [Saved(self._portal, one) for one in found]


class Pool:
    """One pool. See ``AsyncPool``."""

    def __init__(self, portal: Portal, pool: AsyncPool) -> None:
        self._portal = portal
        self._pool = pool
        self.name = pool.name

    def claim(self, **options: Unpack[ClaimOptions]) -> Claimed:
        """Ask for a container, as a block that releases it, or with ``.take()`` and no such end."""
        return Claimed(self._portal, self._pool.claim(**options))

    def claim_many(
        self, count: int, *, partial: bool = False, **options: Unpack[ClaimOptions]
    ) -> ClaimedMany:
        """As ``claim``, for ``count`` containers at once. See ``AsyncPool.claim_many``."""
        return ClaimedMany(self._portal, self._pool.claim_many(count, partial=partial, **options))

    def start_task(self, argv: Sequence[str], **options: Unpack[TaskOptions]) -> Task:
        """Start a command that needs nobody to wait. See ``AsyncPool.start_task``."""
        return Task(self._portal, self._portal.run(self._pool.start_task(argv, **options)))

    def task(self, claim_id: str) -> Task:
        """A Task by its id; asks nothing yet."""
        return Task(self._portal, self._pool.task(claim_id))

    def status(self) -> PoolStatus:
        """How the pool is. Raises NotFoundError."""
        return self._portal.run(self._pool.status())

    def refresh(self) -> None:
        """Have it look at its repository now, and forgive earlier failures."""
        self._portal.run(self._pool.refresh())

    def pause(self) -> None:
        """Have it prepare nothing new."""
        self._portal.run(self._pool.pause())

    def resume(self) -> None:
        """End ``pause``."""
        self._portal.run(self._pool.resume())


class Claimed:
    """A claim that is asked for by ``take``, or by entering this as a block."""

    def __init__(self, portal: Portal, claiming: Claiming) -> None:
        self._portal = portal
        self._claiming = claiming

    def take(self) -> Claim:
        """The claim, which nobody releases but you. Raises as ``AsyncPool.claim``."""
        return Claim(self._portal, self._portal.run(self._claiming.take()))

    def __enter__(self) -> Claim:
        return Claim(self._portal, self._portal.run(self._claiming.__aenter__()))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._portal.run(self._claiming.__aexit__(kind, error, trace))


class ClaimedMany:
    """A group of claims that is asked for by ``take``, or by entering this as a block."""

    def __init__(self, portal: Portal, claiming: ClaimingMany) -> None:
        self._portal = portal
        self._claiming = claiming

    def take(self) -> list[Claim]:
        """The claims, which nobody releases but you. Raises as ``AsyncPool.claim``."""
        return [Claim(self._portal, one) for one in self._portal.run(self._claiming.take())]

    def __enter__(self) -> list[Claim]:
        return [Claim(self._portal, one) for one in self._portal.run(self._claiming.__aenter__())]

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._portal.run(self._claiming.__aexit__(kind, error, trace))


class Claim:
    """One container that is yours until ``expires_at``. See ``AsyncClaim``."""

    def __init__(self, portal: Portal, claim: AsyncClaim) -> None:
        self._portal = portal
        self._claim = claim

    def __repr__(self) -> str:
        return repr(self._claim)

    @property
    def id(self) -> str:
        """The claim's id: with it, another program can find the same claim."""
        return self._claim.id

    @property
    def pool(self) -> str:
        return self._claim.pool

    @property
    def container(self) -> str:
        return self._claim.container

    @property
    def token(self) -> int:
        """The fencing token, which grows with every grant of the pool."""
        return self._claim.token

    @property
    def expires_at(self) -> float:
        """When it ends by itself, in epoch seconds."""
        return self._claim.expires_at

    @property
    def grant(self) -> Grant:
        """All that the API said when it granted it."""
        return self._claim.grant

    def exec(self, argv: Sequence[str], **options: Unpack[CommandOptions]) -> Completed:
        """Run a command to its end, keeping its output. Raises as ``AsyncClaim.exec``."""
        return self._portal.run(self._claim.exec(argv, **options))

    def stream(self, argv: Sequence[str], **options: Unpack[CommandOptions]) -> RunningCommand:
        """A command to iterate over: its output as it comes. Raises as ``exec``."""
        return RunningCommand(self._portal, self._claim.stream(argv, **options))

    def read(self, path: str) -> bytes:
        """A file's content. Raises NotFoundError, UsageError for what is no file."""
        return self._portal.run(self._claim.read(path))

    def write(self, path: str, data: bytes | str) -> None:
        """Make or replace a file and the folders above it. Raises UsageError."""
        self._portal.run(self._claim.write(path, data))

    def get_archive(self, path: str, into: IO[bytes]) -> None:
        """A file or folder as a tar stream. See ``AsyncClaim.get_archive``."""
        self._portal.run(self._claim.get_archive(path, into))

    def put_archive(self, folder: str, archive: bytes | IO[bytes]) -> None:
        """Unpack a tar stream into a folder, made if there is none. Raises UsageError."""
        self._portal.run(self._claim.put_archive(folder, archive))

    def extend(self, ttl: float) -> float:
        """Have it live for ``ttl`` seconds from now; its new end. Raises as ``AsyncClaim``."""
        return self._portal.run(self._claim.extend(ttl))

    def hold(self, seconds: float) -> float:
        """Keep it for debugging; its new end. See ``AsyncClaim.hold``."""
        return self._portal.run(self._claim.hold(seconds))

    def beat(self) -> float:
        """Say that its holder is there; when it ends. See ``AsyncClaim.beat``."""
        return self._portal.run(self._claim.beat())

    def transfer(self, holder: str) -> int:
        """Give it to another holder; its new token. See ``AsyncClaim.transfer``."""
        return self._portal.run(self._claim.transfer(holder))

    def release(self, *, discard: bool = False, wait: bool = True) -> Released:
        """End it. See ``AsyncClaim.release``."""
        return self._portal.run(self._claim.release(discard=discard, wait=wait))


class Task:
    """A Task. See ``AsyncTask``."""

    def __init__(self, portal: Portal, task: AsyncTask) -> None:
        self._portal = portal
        self._task = task
        self.id = task.id

    def wait(self, timeout: float | None = None) -> TaskResult:
        """What it came to. Raises as ``AsyncTask.wait``."""
        return self._portal.run(self._task.wait(timeout))

    def cancel(self) -> None:
        """Have its command killed, its work saved, its claim ended. Raises NotFoundError."""
        self._portal.run(self._task.cancel())


class Saved:
    """The work of one ended claim. See ``AsyncSaved``."""

    def __init__(self, portal: Portal, saved: AsyncSaved) -> None:
        self._portal = portal
        self._saved = saved

    def __repr__(self) -> str:
        return repr(self._saved)

    @property
    def record(self) -> SavedRecord:
        return self._saved.record

    def show(self) -> ShownWork:
        """With its commits, changed and ignored files. Raises NotFoundError."""
        return self._portal.run(self._saved.show())

    def export(self, file: str | Path) -> None:
        """Write everything that was kept to a .tar.gz. Raises NotFoundError, UsageError."""
        self._portal.run(self._saved.export(file))

    def delete(self) -> None:
        """Forget it; what is gone already is success."""
        self._portal.run(self._saved.delete())


class RunningCommand:
    """A command whose output can be iterated over, once. Leaving its block early kills it."""

    def __init__(self, portal: Portal, running: AsyncRunningCommand) -> None:
        self._portal = portal
        self._running = running

    @property
    def exit_code(self) -> int:
        """Its exit code, once its output has ended. Raises UsageError before."""
        return self._running.exit_code

    def __iter__(self) -> Iterator[Chunk]:
        try:
            chunks = self._portal.run(_begun(self._running))
            while (chunk := self._portal.run(_next(chunks))) is not None:
                yield chunk
        finally:
            self._portal.run(self._running.kill())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End it, if it has not ended."""
        self._portal.run(self._running.kill())


async def _made(url: str, token: str, verify: Any) -> AsyncGreenroom:  # noqa: ANN401 - httpx's
    return AsyncGreenroom(url, token, verify=verify)


async def _begun(running: AsyncRunningCommand) -> Any:  # noqa: ANN401 - an iterator
    return running.__aiter__()


async def _next(chunks: Any) -> Chunk | None:  # noqa: ANN401 - an iterator
    return await anext(chunks, None)
