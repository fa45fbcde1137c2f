"""Reads the server name out of the beginning of a TLS connection (RFC 8446, RFC 6066).

Pure: bytes in, a verdict out; nothing is decrypted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

MAX_HELLO = 65536
"""Bytes that are read at most in search of a whole ClientHello."""
_RECORD_HANDSHAKE = 0x16
_CLIENT_HELLO = 0x01
_EXTENSION_SERVER_NAME = 0
_NAME_TYPE_HOST = 0
_MAX_RECORD = 16384 + 256


class Verdict(Enum):
    """What the first bytes of a connection are."""

    NOT_TLS = auto()
    INCOMPLETE = auto()
    HELLO = auto()
    MALFORMED = auto()


@dataclass(frozen=True)
class Sniffed:
    """The verdict, and for a HELLO its server name in lower case (None when it has none)."""

    verdict: Verdict
    name: str | None = None


class _MalformedError(Exception):
    pass


class _Cursor:
    """Reads big-endian fields; running past the end is malformed."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise _MalformedError
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))

    @property
    def left(self) -> int:
        return len(self._data) - self._at


def sniff(data: bytes) -> Sniffed:
    """What ``data``, the first bytes that a client sent, say about TLS.

    INCOMPLETE means that more bytes are needed. A ClientHello may be cut over several TLS
    records; it is put together here, as a server would.
    """
    if not data:
        return Sniffed(Verdict.INCOMPLETE)
    if data[0] != _RECORD_HANDSHAKE or (len(data) > 1 and data[1] != 0x03):
        return Sniffed(Verdict.NOT_TLS)
    try:
        body = _handshake_body(data)
        if body is None:
            verdict = Verdict.INCOMPLETE if len(data) < MAX_HELLO else Verdict.MALFORMED
            return Sniffed(verdict)
        return Sniffed(Verdict.HELLO, _server_name(body))
    except _MalformedError:
        return Sniffed(Verdict.MALFORMED)


def _handshake_body(data: bytes) -> bytes | None:
    """The ClientHello's body out of its TLS records; None while it is not all there."""
    message = b""
    at = 0
    while at < len(data):
        header = data[at : at + 5]
        if header[0] != _RECORD_HANDSHAKE or (len(header) > 1 and header[1] != 0x03):
            raise _MalformedError
        if len(header) < 5:
            return None
        length = int.from_bytes(header[3:5], "big")
        if not 0 < length <= _MAX_RECORD:
            raise _MalformedError
        message += data[at + 5 : at + 5 + length]
        at += 5 + length
        if message and message[0] != _CLIENT_HELLO:
            raise _MalformedError
        if len(message) >= 4:
            wanted = int.from_bytes(message[1:4], "big")
            if wanted > MAX_HELLO:
                raise _MalformedError
            if len(message) >= 4 + wanted:
                return message[4 : 4 + wanted]
    return None


def _server_name(body: bytes) -> str | None:
    cursor = _Cursor(body)
    cursor.take(2 + 32)  # legacy version, random
    cursor.vector(1)  # session id
    cursor.vector(2)  # cipher suites
    cursor.vector(1)  # compression methods
    if cursor.left == 0:
        return None  # a hello without extensions is legal before TLS 1.3
    extensions = _Cursor(cursor.vector(2))
    found: str | None = None
    while extensions.left:
        kind = extensions.number(2)
        value = extensions.vector(2)
        if kind == _EXTENSION_SERVER_NAME:
            if found is not None:
                raise _MalformedError  # two: which one the server believes is anyone's guess
            found = _host_name(value)
    return found


def _host_name(extension: bytes) -> str:
    names = _Cursor(_Cursor(extension).vector(2))
    kind = names.number(1)
    raw = names.vector(2)
    if kind != _NAME_TYPE_HOST or names.left:
        raise _MalformedError
    try:
        return raw.decode("ascii").lower().rstrip(".")
    except UnicodeDecodeError as error:
        raise _MalformedError from error
