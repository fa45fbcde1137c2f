"""What is reached from inside a claimed container: the allow-list, and nothing else.

Every way is tried by a program that uses the proxy and by one that knows of none, and every
negative has a positive control: the same program, at the same time, on something allowed.
"""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.chaos import events as ev
from tests.e2e.rough import Shaken

PROXY = "http://127.0.0.1:3128"
CONNECTS = """
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        print(place, "open")
    except OSError:
        print(place, "closed")
"""
LISTENS = """
import socket
taken = socket.create_server(("0.0.0.0", 8000))
print("on", flush=True)
while True:
    taken.accept()[0].close()
"""


class Answer(http.server.BaseHTTPRequestHandler):
    served = 0

    def do_GET(self) -> None:
        Answer.served += 1
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"reached")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A port of the host's loopback on which something answers."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@dataclass
class Inside:
    """A claimed container."""

    shaken: Shaken
    lease: dict[str, Any]

    def curl(self, url: str, *options: str) -> str:
        line = ("curl", "-sS", "-k", "--max-time", "20", *options, url)
        done = self.shaken.exec(self.lease, *line)
        return done.out + done.err

    def aware(self, url: str) -> str:
        """By the proxy, whatever the variables exempt."""
        return self.curl(url, "--noproxy", "", "--proxy", PROXY)

    def tunnel(self, url: str) -> str:
        """By the proxy's CONNECT."""
        return self.curl(url, "--noproxy", "", "--proxy", PROXY, "--proxytunnel")

    def blind(self, url: str) -> str:
        """As if there were no proxy."""
        return self.curl(url, "--noproxy", "*")

    def connects(self, *places: str) -> dict[str, str]:
        """Whether a plain connection to each address is ``open`` or ``closed``."""
        done = self.shaken.exec(self.lease, "python3", "-c", CONNECTS, *places)
        return dict(line.rsplit(" ", 1) for line in done.out.splitlines())


@pytest.fixture
def inside(shaken: Shaken, port: int) -> Iterator[Inside]:
    """Claimed from a pool that allows one address and one name, both on ``port``."""
    stack = shaken.stack
    stack.write_pool_file(f'"127.0.0.1:{port}"', f'"{named()}:{port}"')
    stack.ok("apply", str(stack.pool_file), "--wait")
    stack.full()
    lease = shaken.claim()
    yield Inside(shaken, lease)
    shaken.release(lease, "--discard")


def named() -> str:
    """This machine's own name, or one that leads nowhere where that is not on the loopback."""
    name = socket.gethostname().lower()
    try:
        return name if socket.gethostbyname(name) == "127.0.0.1" else "allowed.example"
    except OSError:
        return "allowed.example"


def reached(inside: Inside, host: str, answer: str) -> None:
    assert answer == "reached"
    container = inside.lease["container"]
    inside.shaken.recorder.record(ev.Reached(time.time(), container, host))


def test_the_allow_list_is_reached_and_nothing_else(inside: Inside, port: int) -> None:
    stack = inside.shaken.stack
    decided = json.loads(stack.paths.up.read_text())
    temporal, ui = decided["temporal_address"], f"127.0.0.1:{decided['ui_port']}"
    reached(inside, "127.0.0.1", inside.aware(f"http://127.0.0.1:{port}/"))
    reached(inside, "127.0.0.1", inside.tunnel(f"http://127.0.0.1:{port}/"))
    for place in (
        temporal,
        ui,
        "127.0.0.1:22",
        f"localhost:{port}",
        "other.example",
        "198.51.100.7",
    ):
        assert "allow-list" in inside.aware(f"http://{place}/"), place
        assert "403" in inside.tunnel(f"http://{place}/"), place
        assert "403" in inside.aware(f"https://{place}/"), place
        assert "curl:" in inside.blind(f"http://{place}/"), place
        assert "curl:" in inside.blind(f"https://{place}/"), place
    assert "resolve" in inside.blind("http://other.example/")
    closed = [temporal, ui, f"127.0.0.1:{port}", "198.51.100.7:443", "172.17.0.1:22"]
    closed += ["169.254.169.254:80", "[::1]:3128"]
    seen = inside.connects("127.0.0.1:3128", *closed)
    assert seen == {"127.0.0.1:3128": "open", **dict.fromkeys(closed, "closed")}
    # What is closed there is open here: the Temporal server, for one.
    host, _, number = temporal.rpartition(":")
    socket.create_connection((host, int(number)), timeout=5).close()


def test_a_program_without_a_proxy_reaches_an_allowed_name(inside: Inside, port: int) -> None:
    name = named()
    if name == "allowed.example":
        pytest.skip("this machine's name does not lead to its loopback")
    reached(inside, name, inside.blind(f"http://{name}:{port}/"))
    reached(inside, name, inside.aware(f"http://{name}:{port}/"))
    assert "curl:" in inside.blind(f"http://{name}:{port + 1}/")
    assert "allow-list" in inside.aware(f"http://{name}:{port + 1}/")


def test_neither_the_engine_nor_another_container_is_reached(inside: Inside) -> None:
    shaken = inside.shaken
    other = shaken.claim()
    listening = shaken.stack.start("exec", other["claim_id"], "--", "python3", "-c", LISTENS)
    assert listening.stdout is not None
    assert listening.stdout.readline() == b"on\n"
    assert Inside(shaken, other).connects("127.0.0.1:8000") == {"127.0.0.1:8000": "open"}
    assert inside.connects("127.0.0.1:8000") == {"127.0.0.1:8000": "closed"}
    assert "allow-list" in inside.aware("http://127.0.0.1:8000/")
    shaken.release(other, "--discard")
    listening.communicate()
    script = "cat /proc/net/dev; ls /sys/class/net; find / -xdev -name 'docker*.sock' 2>/dev/null"
    done = shaken.exec(inside.lease, "sh", "-c", script)
    assert "lo:" in done.out
    assert "eth" not in done.out
    assert ".sock" not in done.out


def test_an_ended_claim_reaches_nothing_any_more(inside: Inside, port: int) -> None:
    shaken = inside.shaken
    other = shaken.claim()
    loop = f"while :; do curl -sf --noproxy '' -x {PROXY} http://127.0.0.1:{port}/ && echo; done"
    running = shaken.stack.start("exec", other["claim_id"], "--", "sh", "-c", loop)
    assert running.stdout is not None
    assert running.stdout.readline() == b"reached\n"
    shaken.release(other, "--discard")
    served = Answer.served
    running.communicate()
    assert running.returncode == 122
    # The control on the same server: what is still claimed reaches it, and is the only one.
    reached(inside, "127.0.0.1", inside.aware(f"http://127.0.0.1:{port}/"))
    assert Answer.served == served + 1
