"""What an ended claim left on its host: shown, exported, deleted."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import IO

from greenroom.client.documents import SavedRecord, ShownWork
from greenroom.client.transport import Request, Transport
from greenroom.core.errors import NotFoundError, UsageError
from greenroom.core.wire import url


class AsyncSaved:
    """The work of one ended claim. Made by ``AsyncGreenroom.saved``."""

    def __init__(self, transport: Transport, record: SavedRecord) -> None:
        self._transport = transport
        self.record = record

    def __repr__(self) -> str:
        return f"<{self.record.state} work of claim {self.record.claim_id}>"

    async def show(self) -> ShownWork:
        """With its commits, changed and ignored files. Raises NotFoundError."""
        told = await self._transport.ask(Request("GET", self._url()))
        return ShownWork.model_validate(told)

    async def export(self, file: str | Path) -> None:
        """Write everything that was kept to a .tar.gz. Raises NotFoundError, UsageError."""
        target = Path(file)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            # No half of it ever has its name.
            stream: IO[bytes] = await asyncio.to_thread(partial.open, "xb")
            try:
                with stream:
                    await self._transport.fetch(Request("GET", self._url("export")), stream)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{target} cannot be written: {error.strerror}") from error

    async def delete(self) -> None:
        """Forget it; what is gone already is success."""
        try:
            await self._transport.ask(Request("DELETE", self._url()))
        except NotFoundError:
            return

    def _url(self, *more: str) -> str:
        return url("saved", self.record.pool, self.record.claim_id, *more)
