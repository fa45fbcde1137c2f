"""Files of a claimed container, read and written by commands in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from greenroom.client.commands import Completed
from greenroom.client.options import Command
from greenroom.core.errors import NotFoundError, UsageError

Run = Callable[[Command], Awaitable[Completed]]

_READ = 'exec cat -- "$1"'
_WRITE = 'mkdir -p -- "$(dirname -- "$1")" && exec cat > "$1"'


async def read(run: Run, path: str) -> bytes:
    """A file's content. Raises NotFoundError when it cannot be read."""
    done = await run(_shell(_READ, path))
    if done.exit_code:
        raise NotFoundError(done.stderr.strip() or f"{path} cannot be read", path=path)
    return done.stdout_bytes


async def write(run: Run, path: str, data: bytes) -> None:
    """Make or replace a file and the folders above it. Raises UsageError when that is refused."""
    done = await run(_shell(_WRITE, path, stdin=data))
    if done.exit_code:
        raise UsageError(done.stderr.strip() or f"{path} cannot be written", path=path)


def _shell(script: str, path: str, *, stdin: bytes = b"") -> Command:
    return Command(("/bin/sh", "-c", script, "sh", path), stdin=stdin)
