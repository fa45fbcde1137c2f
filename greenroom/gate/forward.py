"""Forwards one plain HTTP request and its answer (RFC 9110, section 7.6)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import h11

from greenroom.gate.authority import Target
from greenroom.gate.http1 import MAX_HEADER, BadRequestError, Headers, HttpPeer
from greenroom.gate.site import Passage

_CHUNK = 65536
_HOP_BY_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_REQUEST_ONLY = {b"host", b"expect", b"content-length"}


@dataclass(frozen=True)
class Route:
    """Where a request goes: the open connection, its name, and the path in origin form."""

    passage: Passage
    target: Target
    path: bytes


def end_to_end(message: h11.Request | h11.Response) -> Headers:
    """The headers that are not for this hop only, by the standard or by ``Connection``."""
    named: set[bytes] = set()
    for name, value in message.headers:
        if name == b"connection":
            named.update(token.strip().lower() for token in value.split(b","))
    drop = (_HOP_BY_HOP | named) - {b"content-length", b"host"}
    return [
        (name, value) for name, value in message.headers.raw_items() if name.lower() not in drop
    ]


def outgoing(request: h11.Request, route: Route) -> h11.Request:
    """The request as the upstream gets it: ``Host`` from the URI, framing made anew."""
    host = str(route.target) if route.target.port != 80 else str(route.target)[: -len(":80")]
    headers: Headers = [(b"Host", host.encode("ascii"))]
    headers += [
        (name, value) for name, value in end_to_end(request) if name.lower() not in _REQUEST_ONLY
    ]
    lengths = [value for name, value in request.headers if name == b"content-length"]
    if any(name == b"transfer-encoding" for name, _ in request.headers):
        headers.append((b"Transfer-Encoding", b"chunked"))
    elif lengths:
        headers.append((b"Content-Length", lengths[0]))
    headers.append((b"Connection", b"close"))
    return h11.Request(method=request.method, target=route.path, headers=headers)


async def exchange(peer: HttpPeer, request: h11.Request, route: Route) -> str:
    """Send the request on and the answer back; returns the reason for the log.

    Raises OSError when the container's side is gone, BadRequestError (502) while nothing was
    answered yet and the upstream fails.
    """
    both = _Exchange(peer, route)
    upload = asyncio.create_task(both.upload(outgoing(request, route)))
    try:
        return "done" if await both.download() else "upstream broke off"
    finally:
        upload.cancel()
        await asyncio.gather(upload, return_exceptions=True)


class _Exchange:
    def __init__(self, peer: HttpPeer, route: Route) -> None:
        self._peer = peer
        self._passage = route.passage
        self._target = route.target
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADER)

    async def upload(self, head: h11.Request) -> None:
        """Send head and body, then watch for the container to go away, which ends it all."""
        try:
            await self._send(head)
            await self._peer.accept_body()
            while isinstance(event := await self._peer.event(), h11.Data):
                await self._send(h11.Data(data=event.data))
            if isinstance(event, h11.EndOfMessage):
                await self._send(h11.EndOfMessage())
                await self._peer.wait_gone()
            self._passage.abort()
        except BadRequestError:
            self._passage.abort()
        except OSError:
            # The upstream may have answered and closed before it read the body; what it said
            # is still worth passing on. A container that is gone is noticed by the download.
            return

    async def download(self) -> bool:
        """Pass the answer on; False when it was cut short after it began."""
        try:
            response = await self._response()
        except (OSError, h11.RemoteProtocolError) as error:
            raise BadRequestError(502, f"greenroom: {self._target} broke off: {error}") from error
        headers = end_to_end(response)
        if any(name == b"transfer-encoding" for name, _ in response.headers):
            # Chunks win over a length, and the framing of this hop is made anew.
            headers = [
                (name, value) for name, value in headers if name.lower() != b"content-length"
            ]
        await self._peer.send(
            h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)
        )
        while True:
            try:
                event = await self._event()
            except (OSError, h11.RemoteProtocolError):
                return False  # the peer sees a body that ends too early
            if isinstance(event, h11.Data):
                await self._peer.send(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._peer.send(h11.EndOfMessage())
                return True
            else:
                return False

    async def _response(self) -> h11.Response:
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("no answer")

    async def _event(self) -> object:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = await self._passage.reader.read(_CHUNK)
            self._passage.entry.down += len(data)
            self._h11.receive_data(data)

    async def _send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            self._passage.entry.up += len(data)
            self._passage.writer.write(data)
            await self._passage.writer.drain()
