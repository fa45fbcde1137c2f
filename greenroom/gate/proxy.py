"""The proxy that containers know by their proxy variables, and the blind listener for http.

Each request on a kept connection is decided anew.
"""

from __future__ import annotations

import h11

from greenroom.gate import forward, tunnel
from greenroom.gate.authority import (
    BadTargetError,
    Target,
    origin_form,
    parse_absolute,
    parse_authority,
)
from greenroom.gate.http1 import BadRequestError, HttpPeer
from greenroom.gate.site import Flow, RefusalError


async def serve_proxy(flow: Flow) -> None:
    """Serve CONNECT and plain ``http://`` requests. Raises OSError when the peer is gone."""
    await _serve(flow, blind=False)


async def serve_blind_http(flow: Flow) -> None:
    """Serve requests to the one name that the listener stands for. Raises OSError."""
    await _serve(flow, blind=True)


async def _serve(flow: Flow, *, blind: bool) -> None:
    peer = HttpPeer(flow.reader, flow.writer)
    try:
        while (request := await peer.request()) is not None:
            if request.method == b"CONNECT":
                await _connect(flow, peer, request, blind=blind)
                return
            target, path = _blind_target(flow, request) if blind else _target(request.target)
            passage = await flow.reach(target)
            reason = "broke off"
            try:
                reason = await forward.exchange(peer, request, forward.Route(passage, target, path))
            finally:
                flow.release(passage, reason)
            if not peer.keep():
                return
    except (BadRequestError, RefusalError) as error:
        await peer.refuse(error.status, error.message)


async def _connect(flow: Flow, peer: HttpPeer, request: h11.Request, *, blind: bool) -> None:
    if blind:
        raise BadRequestError(405, "greenroom: this address is no proxy")
    for name, value in request.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0"):
            raise BadRequestError(400, "greenroom: CONNECT with a body")
    try:
        target = parse_authority(request.target, None)
    except BadTargetError as error:
        raise BadRequestError(400, f"greenroom: CONNECT: {error}") from error
    passage = await flow.reach(target)
    try:
        ahead = await peer.start_tunnel()
    except OSError:
        flow.release(passage, "gone")
        raise
    await tunnel.run(flow, passage, ahead)


def _target(raw: bytes) -> tuple[Target, bytes]:
    if raw.startswith(b"/"):
        raise BadRequestError(
            400, "greenroom: this is a proxy; it takes CONNECT and http:// requests"
        )
    try:
        return parse_absolute(raw)
    except BadTargetError as error:
        raise BadRequestError(400, f"greenroom: request target: {error}") from error


def _blind_target(flow: Flow, request: h11.Request) -> tuple[Target, bytes]:
    """The listener's own name; a request that names another one is refused as not allowed."""
    listener = flow.listener
    own = Target(listener.host, listener.port)
    try:
        if request.target.startswith(b"/"):
            path = origin_form(request.target)
            hosts = [value for name, value in request.headers if name == b"host"]
            asked = parse_authority(hosts[0], listener.port) if hosts else own
        else:
            asked, path = parse_absolute(request.target)
    except BadTargetError as error:
        raise BadRequestError(400, f"greenroom: bad request: {error}") from error
    if asked != own:
        flow.site.around.books.denied(flow.site.caller, asked, f"asked at the address of {own}")
        raise RefusalError(403, flow.site.not_allowed(asked))
    return own, path
