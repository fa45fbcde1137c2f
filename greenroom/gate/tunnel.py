"""Byte tunnels: what CONNECT opens, and what blind listeners are from their first byte on.

TLS is not decrypted. When the client's first bytes are a ClientHello, its server name must be
the name that the policy allowed. The server may speak first (ssh, mail, databases): its bytes
flow from the start, and nothing waits for the client.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter

from greenroom.gate.authority import Target
from greenroom.gate.connect import reset
from greenroom.gate.decisions import Entry
from greenroom.gate.site import Flow, Passage, RefusalError
from greenroom.gate.sni import Sniffed, Verdict, sniff

HELLO_TIMEOUT_S = 30.0
_CHUNK = 1 << 17


class _WrongNameError(Exception):
    """The client's TLS hello is not for the name that it asked for."""


async def serve_blind(flow: Flow) -> None:
    """Serve a connection on a listener that stands for one name and port. Raises OSError."""
    target = Target(flow.listener.host, flow.listener.port)
    try:
        passage = await flow.reach(target)
    except RefusalError:
        reset(flow.writer)  # there is no protocol in which to say why; the log does
        return
    await run(flow, passage, b"")


async def run(flow: Flow, passage: Passage, ahead: bytes) -> None:
    """Move bytes both ways until both sides are done; ``ahead`` is what came already."""
    entry, reason = passage.entry, "closed"
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_up(flow, passage, ahead))
            group.create_task(_down(passage.reader, flow.writer, entry))
    except* _WrongNameError as wrong:
        reason = str(wrong.exceptions[0])
        entry.deny(reason)
        reset(flow.writer)
        passage.abort()
    except* OSError:
        reason = "reset"
        reset(flow.writer)
        passage.abort()
    finally:
        flow.release(passage, reason)


async def _up(flow: Flow, passage: Passage, ahead: bytes) -> None:
    first = await _first_bytes(flow.reader, passage.entry.target, ahead)
    passage.writer.write(first)
    passage.entry.up += len(first)
    await passage.writer.drain()
    while data := await flow.reader.read(_CHUNK):
        passage.entry.up += len(data)
        passage.writer.write(data)
        await passage.writer.drain()
    _finish(passage.writer)


async def _down(reader: StreamReader, writer: StreamWriter, entry: Entry) -> None:
    while data := await reader.read(_CHUNK):
        entry.down += len(data)
        writer.write(data)
        await writer.drain()
    _finish(writer)


def _finish(writer: StreamWriter) -> None:
    if not writer.is_closing() and writer.can_write_eof():
        writer.write_eof()


async def _first_bytes(reader: StreamReader, target: Target, ahead: bytes) -> bytes:
    """What the client sent first, once it is clear that it may pass. Raises _WrongNameError."""
    data = ahead or await reader.read(_CHUNK)
    sniffed = sniff(data)
    try:
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            while data and sniffed.verdict is Verdict.INCOMPLETE:
                more = await reader.read(_CHUNK)
                if not more:
                    raise _WrongNameError("broke off its TLS hello")
                data += more
                sniffed = sniff(data)
    except TimeoutError as error:
        raise _WrongNameError("did not finish its TLS hello") from error
    check(sniffed, target)
    return data


def check(sniffed: Sniffed, target: Target) -> None:
    """Raise _WrongNameError unless the first bytes may go to ``target``."""
    if sniffed.verdict is Verdict.MALFORMED:
        raise _WrongNameError("not a TLS hello")
    if sniffed.name is not None and sniffed.name != target.host:
        raise _WrongNameError(f"TLS name {sniffed.name[:253]} is not {target.host}")
