"""The HTTP API as it travels: paths, error documents, and the frames of a command's stream.

Every client and the API itself import this, so it needs nothing but the standard library.

A command's stream is a WebSocket. The caller's first message is text, an order. Every later one is
binary: one byte of channel, then data. Control messages are JSON: from the caller
``{"type":"resize","rows":n,"cols":n}`` and ``{"type":"stdin_eof"}``; to the caller
``{"type":"ack","bytes":n}`` for input that the command has taken, and as the last message
``{"type":"exit","code":n}`` or ``{"type":"error","error":…,"message":…,"details":…}``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote, urlencode

from greenroom.core.errors import BackendError, GreenroomError, from_code

STDIN, STDOUT, STDERR, CONTROL = 0, 1, 2, 3
"""Channels of a command's stream."""
PIECE = 64 * 1024
"""Bytes of input that go into one frame."""
WINDOW = 512 * 1024
"""Bytes of input that may be under way without an ack: a caller that keeps to it is seen to go
away even while its command reads nothing."""
STDIN_EOF: dict[str, object] = {"type": "stdin_eof"}


@dataclass(frozen=True)
class Output:
    """A piece of a command's output; ``channel`` is ``STDOUT`` or ``STDERR``."""

    channel: int
    data: bytes


@dataclass(frozen=True)
class Ack:
    """This many bytes of input are taken."""

    count: int


@dataclass(frozen=True)
class Exit:
    """The command has ended."""

    code: int


Heard: TypeAlias = Output | Ack | Exit


def url(*parts: str, **query: object) -> str:
    """``/v1/…`` of quoted parts; query values that are None are left out."""
    path = "/v1/" + "/".join(quote(part, safe="") for part in parts)
    plain = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in query.items()
        if value is not None
    }
    return f"{path}?{urlencode(plain)}" if plain else path


def error_of(status: int, answer: bytes) -> GreenroomError:
    """The error that an answer with this status carries; BackendError when it is not the API's."""
    try:
        told = json.loads(answer)
        return from_code(told["error"], told["message"], told.get("details"))
    except (ValueError, KeyError, TypeError):
        text = answer.decode(errors="replace")[:200]
        return BackendError(f"the API answered {status}: {text}", status=status)


def frame(channel: int, data: bytes) -> bytes:
    """One binary message."""
    return bytes([channel]) + data


def control(told: dict[str, object]) -> bytes:
    """One control message."""
    return frame(CONTROL, json.dumps(told).encode())


def hear(message: bytes | str) -> Heard | None:
    """What one message to the caller says; None for a kind that this version does not know.

    Raises the error that it carries.
    """
    data = message if isinstance(message, bytes) else message.encode()
    if data[0] != CONTROL:
        return Output(data[0], data[1:])
    told = json.loads(data[1:])
    match told["type"]:
        case "ack":
            return Ack(int(told["bytes"]))
        case "exit":
            return Exit(int(told["code"]))
        case "error":
            raise from_code(told["error"], told["message"], told["details"])
        case _:
            return None
