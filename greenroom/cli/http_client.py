"""The CLI's way to the API: HTTP, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from greenroom.cli.endpoint import Endpoint, Local, endpoint_of, local
from greenroom.core.errors import BackendError, GreenroomError, UsageError, from_code
from greenroom.core.paths import StatePaths

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
        give_up = time.monotonic() + _RESTART_S
        while True:
            try:
                return self._send(ask)
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > give_up or not self.endpoint.restarts():
                    raise self._down(error) from error
            except (http.client.RemoteDisconnected, ConnectionError) as error:
                if time.monotonic() > give_up or not ask.repeatable:
                    raise BackendError(f"the API broke off: {error}") from error
            except PermissionError as error:
                raise self._not_ours() from error
            except TimeoutError as error:
                raise BackendError(f"no answer from the API within {ask.timeout_s:g} s") from error
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error) from error
            time.sleep(0.05)

    def websocket(self, path: str) -> dict[str, Any]:
        """Arguments of websockets' ``connect`` for a path. Waits and raises as ``ask``."""
        context = self.endpoint.tls_context()
        return {
            "uri": f"{'wss' if context else 'ws'}://{self.endpoint.host}{path}",
            "sock": self._dial(),
            "ssl": context,
            "server_hostname": self.endpoint.host if context else None,
            "additional_headers": self.endpoint.headers,
            "compression": None,
            "max_size": None,
            "ping_interval": None,
            "close_timeout": 2,
            "proxy": None,
        }

    def _dial(self) -> socket.socket:
        give_up = time.monotonic() + _RESTART_S
        while True:
            try:
                return self.endpoint.dial()
            except PermissionError as error:
                raise self._not_ours() from error
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > give_up or not self.endpoint.restarts():
                    raise self._down(error) from error
            except OSError as error:
                raise self._unreachable(error) from error
            time.sleep(0.05)

    def _send(self, ask: Ask) -> Any:  # noqa: ANN401 - JSON
        connection = self.endpoint.connection(ask.timeout_s)
        body = None if ask.body is None else json.dumps(ask.body)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(ask.method, ask.path, body, {**headers, **self.endpoint.headers})
            response = connection.getresponse()
            status, answer = response.status, response.read()
        finally:
            connection.close()
        if status >= 400:
            raise error_of(status, answer)
        return json.loads(answer) if answer else None

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
    """The error that an answer of 400 and above says."""
    try:
        told = json.loads(answer)
        return from_code(told["error"], told["message"], told.get("details"))
    except (ValueError, KeyError, TypeError):
        text = answer.decode(errors="replace")[:200]
        return BackendError(f"the API answered {status}: {text}")
