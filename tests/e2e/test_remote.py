"""The API over TCP with TLS, as somebody on another machine uses it."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.e2e.stack import POOL, PROGRAM, Ended, Stack, Watched


@dataclass
class Afar:
    """A caller with nothing but an address, a token and a certificate."""

    url: str
    ca: Path
    token: str
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            **os.environ, "GREENROOM_STATE": "/nonexistent", "GREENROOM_URL": self.url,
            "GREENROOM_TOKEN": self.token, "GREENROOM_CA": str(self.ca),
        }  # fmt: skip

    def cli(self, *line: str, stdin: bytes = b"") -> Ended:
        done = subprocess.run(
            [PROGRAM, *line], input=stdin, capture_output=True, env=self.environ,
            cwd=self.folder, check=False,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    def ok(self, *line: str, stdin: bytes = b"") -> Ended:
        done = self.cli(*line, stdin=stdin)
        assert done.code == 0, f"{line}: {done.code}\n{done.out}\n{done.err}"
        return done


@pytest.fixture(scope="module")
def served(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Afar]:
    """The stack that runs already, told to listen; and told to stop it afterwards."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    cert, key, ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    authority.cert_pem.write_to_path(ca)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    up = stack.ok(
        "up", "--no-wait", "--listen", address, "--tls-cert", str(cert), "--tls-key", str(key),
        "--json",
    )  # fmt: skip
    made = stack.ok("token", "create", "afar", "--pool", POOL, "--scope", "claim", "--json")
    yield Afar(up.json["api"], ca, made.json["token"], folder)
    stack.ok("token", "revoke", "afar")
    assert stack.ok("up", "--no-wait", "--listen", "off", "--json").json["api"] == ""


def test_work_from_afar(watched: Watched, served: Afar) -> None:
    lease = watched.claim("--id", "afar")
    big = os.urandom(3_000_000)
    done = served.cli("exec", "-i", "afar", "--", "sh", "-c", "cat; exit 7", stdin=big)
    assert (done.code, done.stdout) == (7, big)

    tree = served.folder / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "data").write_bytes(big)
    (tree / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (tree / "run.sh").chmod(0o755)
    served.ok("cp", "tree", "afar:/tmp/")
    assert served.ok("exec", "afar", "--", "/tmp/tree/run.sh").out == "ran\n"
    served.ok("exec", "afar", "--", "ln", "-s", "/etc/hostname", "/tmp/tree/planted")
    copied = served.ok("cp", "afar:/tmp/tree", "back", "--json").json
    assert [line.partition(":")[0] for line in copied["left_out"]] == ["back/planted"]
    assert (served.folder / "back" / "sub" / "data").read_bytes() == big
    # A folder of the container that leads elsewhere leads elsewhere in the container.
    mark = Path("/tmp") / f"greenroom-planted-{os.getpid()}"
    served.ok("exec", "afar", "--", "ln", "-s", "/tmp", "out")
    served.ok("cp", "tree/run.sh", f"afar:out/{mark.name}")
    assert not mark.exists()
    served.ok("exec", "afar", "--", "test", "-f", str(mark))
    assert served.cli("cp", "afar:/root/secret", "x").code == 4
    watched.release(lease, "--discard")


@contextmanager
def forwarding(served: Afar, ports: str) -> Iterator[int]:
    """The port here that leads to one of the container."""
    process = subprocess.Popen(
        [PROGRAM, "forward", "ports", ports], env=served.environ, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.readline().decode()
    yield int(said.split(" ")[0].rpartition(":")[2])
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130


def test_a_port_of_the_container_is_reached_and_the_gates_are_not(
    watched: Watched, served: Afar
) -> None:
    lease = watched.claim("--id", "ports")
    serve = ("python3", "-u", "-m", "http.server", "9000", "--bind", "127.0.0.1")
    server = subprocess.Popen(
        [PROGRAM, "exec", "ports", "--", *serve], env=served.environ, stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    assert b"Serving HTTP" in server.stdout.readline()
    with forwarding(served, "0:9000") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/main.py")
        assert connection.getresponse().read() == b"print('hello from the repository')\n"
        connection.close()
    with forwarding(served, "0:3128") as port:
        one = socket.create_connection(("127.0.0.1", port))
        assert one.recv(1) == b""
        one.close()
    watched.release(lease, "--discard")
    server.communicate()
    assert server.returncode == 122


def test_who_has_no_good_token_or_no_trust_gets_nowhere(watched: Watched, served: Afar) -> None:
    lease = watched.claim("--id", "mine")
    assert served.cli("delete", POOL).code == 2
    assert served.cli("doctor").code == 2
    distrustful = Afar(served.url, Path("/dev/null"), served.token, served.folder)
    assert distrustful.cli("claims").code in (2, 5)
    nobody = Afar(served.url, served.ca, served.token[:-1] + "x", served.folder)
    assert nobody.cli("exec", "mine", "--", "true").code == 120

    made = watched.stack.ok("token", "create", "brief", "--pool", POOL, "--scope", "claim")
    brief = Afar(served.url, served.ca, made.out.strip(), served.folder)
    running = subprocess.Popen(
        [PROGRAM, "exec", "mine", "--", "sh", "-c", "echo on; sleep 1000"],
        env=brief.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == b"on\n"
    watched.stack.ok("token", "revoke", "brief")
    running.communicate()
    assert running.returncode == 123
    left = watched.exec(lease, "sh", "-c", "ps ax | grep -c '[s]leep 1000'")
    assert left.out == "0\n"
    log = (watched.stack.paths.logs / "api.log").read_text()
    assert "brief WEBSOCKET /v1/claims/mine/exec" in log
    assert made.out.strip() not in log
    watched.release(lease, "--discard")
