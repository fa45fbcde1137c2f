"""Requests to the API: sent again where that is right, and failures as Greenroom's errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import IO, Any

import httpx

from greenroom.client.address import Address
from greenroom.core.errors import BackendError, UsageError
from greenroom.core.wire import error_of

PATIENCE_S = 60.0
"""How long an answer that waits for nothing may take."""
RESTART_S = 20.0
"""How long an API that cannot be connected to, or breaks off, is asked again."""
_PAUSE_S = 0.05
_PAUSE_MAX_S = 1.0
_CONNECT_S = 10.0
_LAST_S = 1.0
_PIECE = 256 * 1024
_AWAY = (502, 503, 504)
"""What a proxy says in place of an API that is being restarted."""


@dataclass(frozen=True)
class Request:
    """One request. Each of the API's can be sent again: the same id is the same claim."""

    method: str
    path: str
    body: Any = None
    content: bytes | IO[bytes] | None = None
    """Raw bytes in place of a JSON body; a stream is read from its start."""
    timeout_s: float = PATIENCE_S
    again_s: float = RESTART_S
    """How long it is sent again after a broken connection; 0: it is sent once."""


class Transport:
    """One connection pool to one API. ``verify`` is httpx's: a TLS context, or True."""

    def __init__(self, address: Address, verify: Any) -> None:  # noqa: ANN401 - httpx's
        self.address = address
        self.verify = verify
        self._background: set[asyncio.Task[None]] = set()
        local = address.paths is not None
        uds = str(address.paths.api_socket) if address.paths is not None else None
        # Claims that wait hold their connection: there may be as many as there are claims.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=8)
        self._client = httpx.AsyncClient(
            base_url=address.url,
            headers=address.headers,
            transport=httpx.AsyncHTTPTransport(uds=uds, limits=limits) if local else None,
            limits=limits,
            verify=verify,
            trust_env=not local,
        )

    async def ask(self, request: Request) -> Any:  # noqa: ANN401 - JSON
        """The decoded answer. Raises any of ``greenroom.core.errors``."""
        answer = await self._send(request, None)
        return answer.json() if answer.content else None

    async def fetch(self, request: Request, into: IO[bytes]) -> None:
        """Have ``into`` hold the answer's bytes and nothing else. Raises as ``ask``."""
        await self._send(request, into)

    async def _send(self, request: Request, into: IO[bytes] | None) -> httpx.Response:
        give_up: float | None = None  # set when it first fails: an answer may be long in coming
        pause = _PAUSE_S
        while True:
            try:
                return await self._once(request, into)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if _forbidden(error):
                    raise UsageError(f"{self.address.url}: {error}: run as its owner") from error
                give_up = give_up or time.monotonic() + request.again_s
                if time.monotonic() >= give_up or not self.address.may_come_back():
                    raise self.address.unreachable(error) from error
            except httpx.TimeoutException as error:
                seconds = request.timeout_s
                raise BackendError(f"no answer from the API within {seconds:g} s") from error
            except (httpx.TransportError, _AwayError) as error:
                give_up = give_up or time.monotonic() + request.again_s
                if time.monotonic() >= give_up:
                    raise BackendError(f"the API broke off: {error}") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX_S)

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what nobody waits for; ``close`` gives it a moment to end."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Close all connections."""
        if self._background:
            await asyncio.wait(self._background, timeout=_LAST_S)
        await self._client.aclose()

    async def _once(self, request: Request, into: IO[bytes] | None) -> httpx.Response:
        content = request.content
        asked = self._client.build_request(
            request.method,
            request.path,
            json=request.body,
            content=content if content is None or isinstance(content, bytes) else _pieces(content),
            timeout=httpx.Timeout(request.timeout_s, connect=_CONNECT_S, pool=None),
        )
        answer = await self._client.send(asked, stream=True)
        try:
            if answer.status_code < 400 and into is not None:
                into.seek(0)
                into.truncate()
                async for piece in answer.aiter_raw():
                    into.write(piece)
                return answer
            await answer.aread()
        finally:
            await answer.aclose()
        if answer.status_code >= 400:
            own = answer.headers.get("content-type", "").startswith("application/json")
            if answer.status_code in _AWAY and not own:
                raise _AwayError(f"{answer.status_code} {answer.reason_phrase}")
            raise error_of(answer.status_code, answer.content)
        return answer


async def _pieces(content: IO[bytes]) -> AsyncIterator[bytes]:
    content.seek(0)
    while piece := content.read(_PIECE):
        yield piece


class _AwayError(Exception):
    """Something in front of the API says that it is not there now."""


def _forbidden(error: BaseException) -> bool:
    """Whether the socket is there and not for this user."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, PermissionError):
            return True
        found = found.__cause__ or found.__context__
    return False
