"""The few calls of the Docker Engine API that set-up needs, over its Unix socket.

Not the Docker SDK: this must work before anything is set up, and must not depend on which of
several ``docker`` programs is first on the PATH.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from greenroom.core.errors import EngineError


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DockerHttp:
    """A client of the engine at ``docker_host`` (``unix:///…``). Holds no connection."""

    def __init__(self, docker_host: str) -> None:
        """Raises EngineError for an address that is not a Unix socket."""
        if not docker_host.startswith("unix://"):
            raise EngineError(
                f"the Docker Engine at {docker_host} is remote; Greenroom needs the engine of its "
                "own machine, at a Unix socket (unset DOCKER_HOST, or use the API of that host)"
            )
        self.socket = Path(docker_host.removeprefix("unix://"))

    @contextmanager
    def _request(
        self, method: str, path: str, body: bytes | Iterable[bytes] | None, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _UnixConnection(str(self.socket), timeout_s)
        headers = {"Content-Type": "application/x-tar"} if body is not None else {}
        try:
            connection.request(method, path, body=body, headers=headers)
            with connection.getresponse() as response:
                if response.status >= 400:
                    text = response.read().decode(errors="replace")
                    raise EngineError(_message(text), status=response.status)
                yield response
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(f"the Docker Engine at {self.socket} does not answer: {error}") from (
                error
            )
        finally:
            connection.close()

    def get(self, path: str, timeout_s: float = 30.0, **query: str) -> Any:  # noqa: ANN401 - JSON
        """The decoded JSON answer to a GET. Raises EngineError (``details['status']``)."""
        full = f"{path}?{urlencode(query)}" if query else path
        with self._request("GET", full, None, timeout_s) as response:
            return json.loads(response.read())

    def answers(self) -> bool:
        """Whether the engine is there and well."""
        try:
            with self._request("GET", "/_ping", None, 5.0) as response:
                return response.read() == b"OK"
        except EngineError:
            return False

    def image_id(self, name: str) -> str | None:
        """The id of a local image; None when there is none of that name. Raises EngineError."""
        try:
            return str(self.get(f"/images/{quote(name, safe='/:')}/json")["Id"])
        except EngineError as error:
            if error.details.get("status") == 404:
                return None
            raise

    def tag(self, image: str, repository: str, tag: str) -> None:
        """Give an image another name. Raises EngineError."""
        query = urlencode({"repo": repository, "tag": tag})
        path = f"/images/{quote(image, safe='/:')}/tag?{query}"
        with self._request("POST", path, None, 30.0) as response:
            response.read()

    def kill(self, container: str) -> None:
        """Stop a container at once; one that does not run is success. Raises EngineError."""
        try:
            with self._request("POST", f"/containers/{container}/kill", None, 30.0) as response:
                response.read()
        except EngineError as error:
            if error.details.get("status") not in (404, 409):
                raise

    def stream(
        self,
        path: str,
        query: dict[str, str],
        body: Iterable[bytes] | None = None,
        timeout_s: float = 600.0,
    ) -> Iterator[dict[str, Any]]:
        """The messages of a POST that reports as it goes on.

        ``timeout_s`` bounds the silence between two messages. Raises EngineError, also for an
        error that comes as a message.
        """
        with self._request("POST", f"{path}?{urlencode(query)}", body, timeout_s) as response:
            for line in response:
                message = json.loads(line)
                if "error" in message:
                    raise EngineError(str(message["error"]).strip())
                yield message


def _message(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()
    return str(found.get("message", text)) if isinstance(found, dict) else text
