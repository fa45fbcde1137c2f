"""One HTTP exchange over an open connection: what a quick command needs of ``http.client``.

That module brings TLS and mail headers along, a seventh of what ``greenroom claim`` takes.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

_PIECE = 64 * 1024


@dataclass(frozen=True)
class Request:
    """``target`` is the path with its query; ``body`` is JSON or empty."""

    method: str
    target: str
    host: str
    headers: dict[str, str]
    body: bytes = b""

    def encoded(self) -> bytes:
        """As it travels. HTTP/1.0: the answer ends with the connection, without chunks."""
        fields = {
            "Host": self.host,
            "Content-Type": "application/json",
            "Content-Length": str(len(self.body)),
            **self.headers,
        }
        lines = [f"{self.method} {self.target} HTTP/1.0", *(f"{k}: {v}" for k, v in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def send(connection: socket.socket, request: Request) -> None:
    """Send one request. Raises OSError."""
    connection.sendall(request.encoded())


def exchange(connection: socket.socket, request: Request) -> tuple[int, bytes]:
    """The answer's status and body. Raises OSError, ConnectionError when it is not whole."""
    send(connection, request)
    answer = bytearray()
    while piece := connection.recv(_PIECE):
        answer += piece
    head, end, rest = bytes(answer).partition(b"\r\n\r\n")
    if not end:
        raise ConnectionResetError("it closed the connection without an answer")
    line, *fields = head.split(b"\r\n")
    named = dict(field.lower().split(b":", 1) for field in fields if b":" in field)
    if len(rest) < int(named.get(b"content-length", b"0")):
        raise ConnectionResetError("it closed the connection in the middle of its answer")
    return int(line.split(b" ", 2)[1]), rest
