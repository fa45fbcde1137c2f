"""HTTP over the engine's Unix socket: kept connections, a time-out on every call, no retries.

Written on ``http.client`` rather than a client library, because an inspect stands on the path of
every claim (0.4 ms here) and because each call needs its own time-out and a stream it can stop.
"""

from __future__ import annotations

import http.client
import json
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlencode

from greenroom.core.errors import EngineError, UsageError

API = (1, 41)
"""The API version of Docker 20.10; an engine so new that it refuses it gets its own oldest."""
_MAX_IDLE = 8


class EngineAnswerError(EngineError):
    """The engine answered with an error status; ``status`` is the HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Docker: {message}", status=status)
        self.status = status


@dataclass(frozen=True)
class Call:
    """One request. ``query`` values that are not strings are sent as JSON."""

    method: str
    path: str
    query: dict[str, Any] | None = None
    body: Any = None
    content_type: str = "application/json"
    timeout_s: float = 30.0

    @property
    def target(self) -> str:
        if not self.query:
            return self.path
        plain = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in self.query.items()
        }
        return f"{self.path}?{urlencode(plain)}"


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        # http.client lets go of the socket once the answer's end is the connection's end.
        self.detached: socket.socket = self.sock


def socket_path(docker_host: str) -> str:
    """The path in ``unix:///path``. Raises UsageError for any other kind of address."""
    if not docker_host.startswith("unix://"):
        raise UsageError(
            f"the engine at {docker_host} is remote, which is not supported: use that host's API"
        )
    return docker_host.removeprefix("unix://")


class LiveStream:
    """The bytes of an endless answer, read with a limit on each wait."""

    def __init__(self, response: http.client.HTTPResponse, peer: socket.socket) -> None:
        self._peer = peer
        self._chunks = _Chunks() if response.chunked else None
        # What came in the same packet as the headers waits in the response's own buffer.
        peer.setblocking(False)
        reader = response.fp
        self._head = reader.read1(1 << 16) if reader.peek(1) else b""
        self._response = response

    def read(self, timeout_s: float) -> bytes | None:
        """Some bytes; empty at the end; None when none came in time. Raises EngineError."""
        if self._head:
            data, self._head = self._head, b""
        elif select.select([self._peer], [], [], timeout_s)[0]:
            try:
                data = self._peer.recv(1 << 16)
            except OSError as error:
                raise EngineError(f"Docker broke off: {error}") from error
        else:
            return None
        if self._chunks is None or not data:
            return data
        return self._chunks.feed(data) or (b"" if self._chunks.ended else None)


class _Chunks:
    """Takes the framing off a chunked body."""

    def __init__(self) -> None:
        self._pending = b""
        self._left = 0
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        self._pending += data
        found = bytearray()
        while self._pending and not self.ended:
            if self._left > 0:
                found += self._pending[: self._left]
                taken = min(self._left, len(self._pending))
                self._pending, self._left = self._pending[taken:], self._left - taken
                continue
            line, end, rest = self._pending.partition(b"\r\n")
            if not end:
                break
            self._pending = rest
            if line:  # empty: the end of the chunk before
                self._left = int(line.partition(b";")[0], 16)
                self.ended = self._left == 0
        return bytes(found)


class Transport:
    """Sends calls to one engine. Safe to use from several threads."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._idle: list[_UnixConnection] = []
        self._lock = threading.Lock()
        self._prefix = ""

    def json(self, call: Call) -> Any:  # noqa: ANN401  (the engine's own JSON)
        """The decoded answer (None when empty). Raises EngineAnswerError, EngineError."""
        connection = self._take(call.timeout_s)
        try:
            response = self._send(connection, call)
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _unreachable(error) from error
        if response.will_close:
            connection.close()
        else:
            self._give(connection)
        _check(response.status, data)
        return json.loads(data) if data else None

    @contextmanager
    def download(self, call: Call) -> Iterator[IO[bytes]]:
        """The body of an answer as a file; ``timeout_s`` is for each read of it.

        Raises as ``json`` does; an error of the reader's own is left as it is.
        """
        connection = _UnixConnection(self._path, call.timeout_s)
        with closing(connection), closing(self._open(connection, call)) as response:
            yield response

    @contextmanager
    def live(self, call: Call) -> Iterator[LiveStream]:
        """An answer that goes on until one side ends it. Raises as ``json`` does."""
        connection = _UnixConnection(self._path, call.timeout_s)
        with (
            closing(connection),
            closing(self._open(connection, call)) as response,
            closing(connection.detached) as peer,
        ):
            yield LiveStream(response, peer)

    def _open(self, connection: _UnixConnection, call: Call) -> http.client.HTTPResponse:
        try:
            response = self._send(connection, call)
            if response.status >= 400:
                _check(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(error) from error
        return response

    def close(self) -> None:
        """Close the kept connections; a later call opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _send(self, connection: _UnixConnection, call: Call) -> http.client.HTTPResponse:
        body, headers = call.body, {}
        if body is not None:
            headers["Content-Type"] = call.content_type
            if call.content_type == "application/json":
                body = json.dumps(body).encode()
        target = self._version() + call.target
        connection.request(call.method, target, body=body, headers=headers)
        return connection.getresponse()

    def _version(self) -> str:
        """What every target begins with, such as ``/v1.41``; the engine is asked once."""
        if not self._prefix:
            with closing(_UnixConnection(self._path, 10.0)) as connection:
                connection.request("GET", "/version")
                response = connection.getresponse()
                data = response.read()
            _check(response.status, data)
            oldest = str(json.loads(data).get("MinAPIVersion") or "1.0")
            major, minor = max(API, tuple(int(part) for part in oldest.split(".")))
            self._prefix = f"/v{major}.{minor}"
        return self._prefix

    def _take(self, timeout_s: float) -> _UnixConnection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return _UnixConnection(self._path, timeout_s)
            # Readable while nothing was asked: the engine has closed it meanwhile.
            if connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]:
                connection.sock.settimeout(timeout_s)
                return connection
            connection.close()

    def _give(self, connection: _UnixConnection) -> None:
        with self._lock:
            if len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()


def _unreachable(error: Exception) -> EngineError:
    return EngineError(f"Docker does not answer: {str(error) or type(error).__name__}")


def _check(status: int, data: bytes) -> None:
    if status < 400:
        return
    try:
        message = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        message = data[:500].decode(errors="replace") or f"status {status}"
    raise EngineAnswerError(status, message)
