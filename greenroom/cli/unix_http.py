"""One HTTP exchange over a Unix socket: what a quick command needs of ``http.client``.

That module brings TLS and mail headers along, a seventh of what ``greenroom claim`` takes.
"""

from __future__ import annotations

import socket
from pathlib import Path

_PIECE = 64 * 1024


def send(path: Path, method: str, target: str, body: bytes, timeout_s: float) -> socket.socket:
    """Send one request; the connection on which its answer comes. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        # HTTP/1.0: the answer ends with the connection, without chunks.
        head = (
            f"{method} {target} HTTP/1.0\r\nHost: localhost\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
    except BaseException:
        connection.close()
        raise
    return connection


def exchange(
    path: Path, method: str, target: str, body: bytes, timeout_s: float
) -> tuple[int, bytes]:
    """The answer's status and body. Raises OSError, ConnectionError when it is not whole."""
    with send(path, method, target, body, timeout_s) as connection:
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
