"""Which version of its API an engine is spoken to in."""

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from activities.docker_http import Call, Transport


class Engine(socketserver.ThreadingUnixStreamServer):
    """Answers ``/version`` with an oldest version, and everything else with its path."""

    daemon_threads = True

    def __init__(self, path: Path, oldest: str) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked.append(self.path)
                known = {"MinAPIVersion": oldest} if oldest else {}
                body = json.dumps(known if self.path == "/version" else self.path).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

            def address_string(self) -> str:
                return "unix"

        super().__init__(str(path), Handler)


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "engine.sock", request.param) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("engine", "spoken"),
    [("1.12", "/v1.41"), ("1.41", "/v1.41"), ("1.44", "/v1.44"), ("", "/v1.41")],
    indirect=["engine"],
)
def test_an_engine_that_is_too_new_for_the_usual_version_gets_its_oldest(
    engine: Engine, spoken: str
) -> None:
    transport = Transport(str(engine.server_address))
    for _ in range(2):
        assert transport.json(Call("GET", "/info")) == f"{spoken}/info"
    transport.close()
    assert engine.asked.count("/version") == 1
