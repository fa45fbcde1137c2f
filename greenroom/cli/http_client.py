"""The CLI's way to the API: HTTP, with nothing but the standard library, and little of that."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenroom.cli import plain_http
from greenroom.cli.endpoint import Endpoint, Local, endpoint_of, local
from greenroom.core.errors import BackendError, UsageError
from greenroom.core.paths import StatePaths
from greenroom.core.wire import error_of, url

if TYPE_CHECKING:
    import http.client

PATIENCE_S = 60.0
"""How long an answer that waits for nothing may take."""
_RESTART_S = 20.0


@dataclass(frozen=True)
class Ask:
    """One request. ``repeatable``: may be sent again when the connection broke half-way."""

    method: str
    path: str
    body: Any = None
    timeout_s: float = PATIENCE_S
    repeatable: bool = True

    @property
    def content(self) -> bytes:
        """The body as it travels."""
        return b"" if self.body is None else json.dumps(self.body).encode()


class Api:
    """The API of one install. Methods return decoded JSON and raise ``greenroom.core.errors``."""

    def __init__(self, where: StatePaths | Endpoint) -> None:
        self.endpoint = local(where) if isinstance(where, StatePaths) else where

    def get(self, *parts: str, **query: object) -> Any:  # noqa: ANN401 - JSON
        return self.ask(Ask("GET", url(*parts, **query)))

    def post(self, *parts: str, body: object = None) -> Any:  # noqa: ANN401 - JSON
        return self.ask(Ask("POST", url(*parts), body))

    def put(self, *parts: str, body: object) -> Any:  # noqa: ANN401 - JSON
        return self.ask(Ask("PUT", url(*parts), body))

    def delete(self, *parts: str, timeout_s: float = PATIENCE_S, **query: object) -> Any:  # noqa: ANN401
        return self.ask(Ask("DELETE", url(*parts, **query), timeout_s=timeout_s))

    def ask(self, ask: Ask) -> Any:  # noqa: ANN401 - JSON
        """Send one request; an API that is just being restarted is waited for."""
        give_up: float | None = None  # set when it first fails: an answer may be long in coming
        while True:
            try:
                return self._send(ask)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                give_up = give_up or time.monotonic() + _RESTART_S
                if time.monotonic() > give_up or not self.endpoint.restarts():
                    raise self._down(error) from error
            except ConnectionError as error:
                give_up = give_up or time.monotonic() + _RESTART_S
                if time.monotonic() > give_up or not ask.repeatable:
                    raise BackendError(f"the API broke off: {error}") from error
            except PermissionError as error:
                raise self._not_ours() from error
            except TimeoutError as error:
                raise BackendError(f"no answer from the API within {ask.timeout_s:g} s") from error
            except (OSError, ValueError) as error:
                raise self._unreachable(error) from error
            time.sleep(0.05)

    def tell(self, ask: Ask) -> None:
        """Send one request whose answer nobody waits for: the API goes on without its caller."""
        with suppress(OSError), self.endpoint.open(ask.timeout_s) as connection:
            # Best effort: whoever needs to know asks.
            plain_http.send(connection, self._request(ask))

    def websocket(self, path: str) -> dict[str, Any]:
        """Arguments of websockets' ``connect`` for a path. Waits and raises as ``ask``."""
        context = self.endpoint.tls_context()
        return {
            "uri": f"{'wss' if context else 'ws'}://{self.endpoint.host}{path}",
            "sock": self._opened(self.endpoint.dial),
            "ssl": context,
            "server_hostname": self.endpoint.host if context else None,
            "additional_headers": self.endpoint.headers,
            "compression": None,
            "max_size": None,
            "ping_interval": None,
            "close_timeout": 2,
            "proxy": None,
        }

    def connection(self, timeout_s: float) -> http.client.HTTPConnection:
        """An open connection for what travels in pieces. Waits and raises as ``ask``."""
        import http.client  # noqa: PLC0415 - 12 ms that quick commands do not need

        made = http.client.HTTPConnection(self.endpoint.host, timeout=timeout_s)
        made.sock = self._opened(lambda: self.endpoint.open(timeout_s))
        return made

    def _opened(self, dial: Callable[[], socket.socket]) -> socket.socket:
        give_up = time.monotonic() + _RESTART_S
        while True:
            try:
                return dial()
            except PermissionError as error:
                raise self._not_ours() from error
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > give_up or not self.endpoint.restarts():
                    raise self._down(error) from error
            except OSError as error:
                raise self._unreachable(error) from error
            time.sleep(0.05)

    def _send(self, ask: Ask) -> Any:  # noqa: ANN401 - JSON
        with self.endpoint.open(ask.timeout_s) as connection:
            status, answer = plain_http.exchange(connection, self._request(ask))
        if status >= 400:
            raise error_of(status, answer)
        return json.loads(answer) if answer else None

    def _request(self, ask: Ask) -> plain_http.Request:
        return plain_http.Request(
            ask.method, ask.path, self.endpoint.host, self.endpoint.headers, ask.content
        )

    def _not_ours(self) -> UsageError:
        return UsageError(
            f"the API {self.endpoint.name} is not for this user: run as its owner (sudo), or give "
            "GREENROOM_URL and GREENROOM_TOKEN"
        )

    def _down(self, error: OSError) -> BackendError:
        if not isinstance(self.endpoint, Local):
            return self._unreachable(error)
        return BackendError(
            f"Greenroom is not running {self.endpoint.name} ({error.strerror}): start it with "
            "`greenroom up`, or name its state folder in GREENROOM_STATE"
        )

    def _unreachable(self, error: Exception) -> BackendError:
        return BackendError(f"the API {self.endpoint.name} cannot be reached: {error}")


def open_api() -> Api:
    """The API of the install that the environment selects; connects to nothing yet."""
    return Api(endpoint_of(os.environ))
