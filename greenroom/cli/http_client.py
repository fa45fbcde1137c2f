"""The CLI's way to the API: HTTP over its Unix socket, with nothing but the standard library."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenroom.cli.unix_http import exchange, send
from greenroom.core.errors import BackendError, UsageError
from greenroom.core.paths import StatePaths, state_root
from greenroom.core.wire import error_of, url

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

    def __init__(self, paths: StatePaths) -> None:
        self.paths = paths

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
                if time.monotonic() > give_up or not self.supervised():
                    raise self._down(error) from error
            except ConnectionError as error:
                give_up = give_up or time.monotonic() + _RESTART_S
                if time.monotonic() > give_up or not ask.repeatable:
                    raise BackendError(f"the API broke off: {error}") from error
            except PermissionError as error:
                raise self._not_ours() from error
            except TimeoutError as error:
                raise BackendError(f"no answer from the API within {ask.timeout_s:g} s") from error
            time.sleep(0.05)

    def tell(self, ask: Ask) -> None:
        """Send one request whose answer nobody waits for: the API goes on without its caller."""
        with suppress(OSError):  # best effort: whoever needs to know asks
            send(self.paths.api_socket, ask.method, ask.path, ask.content, ask.timeout_s).close()

    def ask_ready(self) -> None:
        """Wait for an API that is just being restarted. Raises BackendError when none comes."""
        give_up = time.monotonic() + _RESTART_S
        while True:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                    probe.connect(str(self.paths.api_socket))
            except PermissionError as error:
                raise self._not_ours() from error
            except OSError as error:
                if time.monotonic() > give_up or not self.supervised():
                    raise self._down(error) from error
            else:
                return
            time.sleep(0.05)

    def supervised(self) -> bool:
        """Whether a supervisor runs, which starts a dead API again."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            return probe.connect_ex(str(self.paths.supervisor_socket)) == 0

    def _send(self, ask: Ask) -> Any:  # noqa: ANN401 - JSON
        status, answer = exchange(
            self.paths.api_socket, ask.method, ask.path, ask.content, ask.timeout_s
        )
        if status >= 400:
            raise error_of(status, answer)
        return json.loads(answer) if answer else None

    def _not_ours(self) -> UsageError:
        return UsageError(f"{self.paths.api_socket} is not for this user: run as its owner (sudo)")

    def _down(self, error: OSError) -> BackendError:
        return BackendError(
            f"Greenroom is not running in {self.paths.root} ({error.strerror}): start it with "
            "`greenroom up`, or name its state folder in GREENROOM_STATE"
        )


def open_api() -> Api:
    """The API of the install that the environment selects; connects to nothing yet."""
    root = state_root(os.environ, root=os.geteuid() == 0, home=Path.home())
    return Api(StatePaths(root.absolute()))
