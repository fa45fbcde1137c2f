"""The container's side of an HTTP/1.1 connection, with the gate's limits."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter

import h11

MAX_HEADER = 65536
MAX_REQUEST_LINE = 8192
HEADER_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 60.0
"""Seconds that a kept connection may rest between two requests."""
_CHUNK = 65536
_LINGER_BYTES = 1 << 20
_LINGER_S = 2.0

Headers = list[tuple[bytes, bytes]]


class BadRequestError(Exception):
    """A request that breaks a rule; the answer is ``status``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class HttpPeer:
    """Reads requests and writes answers on one connection from a container."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)

    async def request(self) -> h11.Request | None:
        """The next request's head; None when the peer is done. Raises BadRequestError, OSError."""
        try:
            event = self._next()
            if event is h11.NEED_DATA:
                async with asyncio.timeout(IDLE_TIMEOUT_S):
                    await self._fill()
                async with asyncio.timeout(HEADER_TIMEOUT_S):
                    event = await self.event()
        except TimeoutError:
            return None
        if not isinstance(event, h11.Request):
            return None
        size = sum(len(name) + len(value) + 4 for name, value in event.headers.raw_items())
        if len(event.method) + len(event.target) + 11 > MAX_REQUEST_LINE:
            raise BadRequestError(414, "greenroom: the request line is longer than 8 KiB")
        if size > MAX_HEADER:
            raise BadRequestError(431, "greenroom: the header is longer than 64 KiB")
        return event

    async def event(self) -> h11.Event | type[h11.PAUSED]:
        """The next event of h11; more input is read as needed. Raises BadRequestError, OSError."""
        while True:
            event = self._next()
            if event is h11.NEED_DATA:
                await self._fill()
            else:
                return event  # type: ignore[return-value]  # NEED_DATA is dealt with above

    async def wait_gone(self) -> None:
        """Return when the peer closed its side; what it still sends is kept for later."""
        while data := await self._reader.read(_CHUNK):
            self._h11.receive_data(data)
            if len(self._h11.trailing_data[0]) > _LINGER_BYTES:
                return  # it floods a connection on which it should listen

    async def accept_body(self) -> None:
        """Tell a peer that waits for leave to send its body to go on. Raises OSError."""
        if self._h11.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))

    async def send(self, event: h11.Event) -> None:
        """Send one event and wait while the peer is slow. Raises OSError."""
        data = self._h11.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()

    async def start_tunnel(self) -> bytes:
        """Answer a CONNECT with success; returns what the peer sent ahead. Raises OSError."""
        self._writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._writer.drain()
        return self._h11.trailing_data[0]

    def keep(self) -> bool:
        """Make ready for the next request; False when the connection must be closed."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            return True
        return False

    @property
    def unanswered(self) -> bool:
        """Whether no final response was begun yet."""
        return self._h11.our_state in {h11.IDLE, h11.SEND_RESPONSE}

    async def refuse(self, status: int, message: str) -> None:
        """Answer with a text and close in a way that lets the peer read it. Raises OSError.

        The text is the reason phrase as well, because many programs show nothing else.
        """
        if not self.unanswered:
            return
        body = message.encode("utf-8", "replace") + b"\n"
        phrase = "".join(c if c.isprintable() else " " for c in message[:300])
        reason = phrase.encode("ascii", "replace")
        headers: Headers = [
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", str(len(body)).encode()),
            (b"Connection", b"close"),
        ]
        response = h11.Response(status_code=status, headers=headers, reason=reason)
        await self.send(response)
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())
        await self._linger()

    async def _linger(self) -> None:
        """Take in what is under way: closing with unread input would reset the answer."""
        self._writer.write_eof()
        left = _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_S):
                while left > 0 and (data := await self._reader.read(_CHUNK)):
                    left -= len(data)
        except TimeoutError:
            return

    def _next(self) -> object:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise BadRequestError(
                error.error_status_hint, f"greenroom: bad request: {error}"
            ) from error

    async def _fill(self) -> None:
        self._h11.receive_data(await self._reader.read(_CHUNK))
