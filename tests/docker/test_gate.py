"""The opener and the gate as processes, with a real container that has no network of its own."""

import http.server
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.models.containers import Container

from greenroom.core.paths import StatePaths
from greenroom.core.policy import (
    Endpoint,
    Listener,
    Phase,
    Policy,
    plan_network,
    proxy_environment,
)
from greenroom.core.slotfile import GitAccess, SlotRecord
from greenroom.gate.control import GateClient, GateRefused, GateUnavailable
from greenroom.gate.opener import gate_user
from greenroom.gate.opener_client import OpenerClient
from greenroom.gate.personal import TmpfsSpec

pytestmark = pytest.mark.docker

IMAGE = "greenroom/base:latest"
OPENER = "from greenroom.core.paths import *; from greenroom.gate.opener import *; import sys\n"
OPENER += "run(StatePaths(Path(sys.argv[1])), gate_user())"
GATE = """
import sys
from pathlib import Path
from greenroom.core.paths import StatePaths
from greenroom.gate.connect import Outside
from greenroom.gate.server import run
names = dict(pair.split("=") for pair in sys.argv[2:])
async def resolver(host, port):
    if host not in names:
        raise OSError("no such name")
    return [names[host]]
run(StatePaths(Path(sys.argv[1])), Outside(resolver=resolver))
"""
UNREACHABLE = """
import socket, sys
for text in sys.argv[1:]:
    host, _, port = text.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
        print(text, "open")
    except OSError as error:
        print(text, "closed")
"""
# Listens where the git server should, and stays behind when it returns.
SQUATTER = """
import os, socket
taken = socket.create_server(("127.0.0.2", 80))
if os.fork() == 0:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.setsid()
    os.set_inheritable(taken.fileno(), True)
    os.execvp("sleep", ["sleep", "infinity"])
"""
# What the gate's user asks of the opener: must be refused.
AS_GATE = """
import json, socket, sys
peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])
peer.sendall(sys.argv[2].encode() + b"\\n")
print(peer.makefile().readline())
"""


class Answer(http.server.BaseHTTPRequestHandler):
    """Says that the upstream was reached, and by which Host."""

    def do_GET(self) -> None:
        body = f"reached {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@dataclass
class World:
    """State folder, services and containers of one test module."""

    paths: StatePaths
    upstream: str
    engine: docker.DockerClient
    services: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    containers: list[Container] = field(default_factory=list)

    def start(self, name: str) -> None:
        """Start a service and wait for its ``ready``."""
        code = OPENER if name == "opener" else GATE
        words = [sys.executable, "-c", code, str(self.paths.root)]
        if name == "gate":
            words += [f"upstream.example={self.upstream}", f"private.example={self.upstream}"]
        service = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.services[name] = service
        assert service.stdout is not None
        assert service.stdout.readline() == "ready\n"

    def kill(self, name: str) -> None:
        service = self.services[name]
        service.kill()
        service.wait()
        assert service.stdout is not None
        service.stdout.close()

    def write(self, record: SlotRecord) -> None:
        """Write the lease file as the worker does."""
        fresh = self.paths.slots / f".{record.container}.new"
        fresh.write_text(record.model_dump_json())
        os.chown(fresh, 0, gate_user().gid)
        fresh.chmod(0o640)
        fresh.replace(self.paths.slot(record.container))

    def container(self, allow: tuple[Endpoint, ...], command: list[str]) -> SlotRecord:
        """A started container without a network, and its written record in phase claimed."""
        plan = plan_network(None, allow)
        name = f"greenroom-gatetest-{secrets.token_hex(4)}"
        made = self.engine.containers.run(
            IMAGE,
            command,
            name=name,
            detach=True,
            init=True,
            network_mode="none",
            cap_drop=["ALL"],
            extra_hosts=plan.hosts,
            environment=proxy_environment(),
            labels={"greenroom.gatetest": str(os.getpid())},
            volumes={str(self.paths.personal(name)): {"bind": "/run/greenroom", "mode": "ro"}}
            if self.paths.personal(name).exists()
            else {},
        )
        self.containers.append(made)
        made.reload()
        record = SlotRecord(
            container=name,
            pool="p1",
            docker_id=str(made.id),
            sandbox_key=made.attrs["NetworkSettings"]["SandboxKey"],
            phase=Phase.CLAIMED,
            policies=plan.policies,
            listeners=plan.listeners,
            hosts=plan.hosts,
            git=GitAccess(key="repo", refs=("HEAD", "refs/heads/main")),
        )
        self.write(record)
        return record

    def run(self, record: SlotRecord, *words: str, blind: bool = False) -> tuple[int, str]:
        """Run a command inside; ``blind`` takes the proxy variables away."""
        if blind:
            unset = [word for name in proxy_environment() for word in ("-u", name)]
            words = ("env", *unset, *words)
        done = self.engine.containers.get(record.container).exec_run(list(words))
        return done.exit_code, done.output.decode()

    def fetch(self, record: SlotRecord, url: str, *more: str, blind: bool = False) -> str:
        """What curl inside the container says of ``url``, errors included."""
        return self.run(record, "curl", "-sSk", "-m", "20", *more, url, blind=blind)[1]


def certificate(folder: Path) -> ssl.SSLContext:
    pair = folder / "pair.pem"
    subprocess.run(
        (
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -batch -subj /CN=upstream.example "
            f"-keyout {pair} -out {folder}/c.pem"
        ).split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "c.pem", pair)
    return context


def mirror(paths: StatePaths, folder: Path) -> None:
    """A bare mirror with one commit, readable by the gate's group."""
    work = folder / "work"
    identity = ["-c", "user.name=t", "-c", "user.email=t@example"]
    for words in (
        ["init", "-q", "-b", "main", str(work)],
        ["-C", str(work), *identity, "commit", "-q", "--allow-empty", "-m", "from the mirror"],
        ["clone", "-q", "--mirror", str(work), str(paths.mirror("repo"))],
    ):
        subprocess.run(["git", *words], check=True, capture_output=True)
    subprocess.run(["chgrp", "-R", str(gate_user().gid), str(paths.mirrors)], check=True)
    subprocess.run(["chmod", "-R", "g+rX", str(paths.mirrors)], check=True)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="greenroom-gatetest-"))
    folder.chmod(0o755)
    paths = StatePaths(folder / "state")
    address = f"127.{128 + os.getpid() % 100}.{secrets.randbelow(250)}.7"
    engine = docker.from_env()
    made = World(paths, address, engine)
    servers = []
    try:
        for port in (80, 443, 5432):
            server = http.server.ThreadingHTTPServer((address, port), Answer)
            server.daemon_threads = True
            servers.append(server)
            if port == 443:
                tls = certificate(folder)
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        made.start("opener")
        paths.mirrors.mkdir()
        mirror(paths, folder)
        made.start("gate")
        yield made
    finally:
        for each in made.containers:
            each.remove(force=True)
        for name, service in made.services.items():
            if service.poll() is None:
                made.kill(name)
        for server in servers:
            server.shutdown()
            server.server_close()
        engine.close()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def slot(world: World) -> SlotRecord:
    """An attached container that may reach upstream.example."""
    allow = (
        Endpoint(host="upstream.example", ports=(80, 443, 5432), named=True),
        Endpoint(host="private.example"),
    )
    record = world.container(allow, ["sleep", "infinity"])
    GateClient(world.paths).attach(record.container)
    return record


def test_a_proxy_aware_program_reaches_the_allow_list_and_nothing_else(
    world: World, slot: SlotRecord
) -> None:
    assert world.fetch(slot, "https://upstream.example/") == "reached upstream.example"
    assert world.fetch(slot, "http://upstream.example/") == "reached upstream.example"
    refused = world.fetch(slot, "http://other.example/")
    assert refused == "greenroom: other.example:80 is not in pool p1's allow-list (phase claimed)\n"
    assert "403" in world.fetch(slot, "https://other.example/")
    assert "403" in world.fetch(slot, "https://upstream.example:444/")
    # Allowed, but nobody wrote down that it may be a private address.
    assert "leads to" in world.fetch(slot, "http://private.example/")


def test_a_proxy_blind_program_reaches_the_allow_list_and_nothing_else(
    world: World, slot: SlotRecord
) -> None:
    for url in ("https://upstream.example/", "http://upstream.example/"):
        assert world.fetch(slot, url, blind=True) == "reached upstream.example"
    by_port = world.fetch(slot, "http://upstream.example:5432/", blind=True)
    assert by_port == "reached upstream.example:5432"
    assert "resolve" in world.fetch(slot, "https://other.example/", blind=True)
    place = next(each for each in slot.listeners if each.kind == "tls")
    forged = ("--resolve", f"evil.example:443:{place.address}")
    answer = world.fetch(slot, "https://evil.example/", *forged, blind=True)
    assert "reached" not in answer
    assert "curl:" in answer
    answer = world.fetch(slot, "https://upstream.example/", "-x", "", blind=True)
    assert answer == "reached upstream.example"


def test_no_other_address_can_be_reached(world: World, slot: SlotRecord) -> None:
    proxy = next(each for each in slot.listeners if each.kind == "proxy")
    places = [f"{proxy.address}:{proxy.port}"]  # the positive control
    closed = [f"{world.upstream}:443", "127.0.0.1:22", "127.20.0.250:443", "127.0.0.1:443"]
    closed += ["172.17.0.1:22", "169.254.169.254:80", "198.51.100.1:443", "::1:3128"]
    _, output = world.run(slot, "python3", "-c", UNREACHABLE, *places, *closed)
    assert output.splitlines() == [f"{places[0]} open", *(f"{each} closed" for each in closed)]
    # And the address is really open from where the gate stands.
    socket.create_connection((world.upstream, 80), timeout=5).close()


def test_git_is_served_read_only_in_claimed_and_parked(world: World, slot: SlotRecord) -> None:
    client = GateClient(world.paths)
    url = "http://git.greenroom.internal/repo.git"
    for phase in (Phase.CLAIMED, Phase.PARKED):
        world.write(slot.model_copy(update={"phase": phase}))
        client.apply(slot.container)
        target = f"/tmp/{phase}"
        code, output = world.run(slot, "git", "clone", "-q", url, target)
        assert code == 0, output
        assert "from the mirror" in world.run(slot, "git", "-C", target, "log", "-1")[1]
    code, output = world.run(slot, "git", "-C", target, "push", url, "main")
    assert code != 0
    assert "403" in output
    world.write(slot)
    client.apply(slot.container)


def test_the_phase_decides(world: World, slot: SlotRecord) -> None:
    client = GateClient(world.paths)

    def says(phase: Phase) -> str:
        world.write(slot.model_copy(update={"phase": phase}))
        client.apply(slot.container)
        return world.fetch(slot, "http://upstream.example/")

    assert says(Phase.CLAIMED) == "reached upstream.example"
    assert "(phase parked)" in says(Phase.PARKED)
    assert "curl:" in says(Phase.ENDED)
    assert says(Phase.CLAIMED) == "reached upstream.example"
    assert client.stats()["p1"]["denied"] > 0
    assert client.list()[slot.container]["phase"] == "claimed"


def test_a_dead_gate_is_a_closed_gate_and_a_new_one_takes_over(
    world: World, slot: SlotRecord
) -> None:
    client = GateClient(world.paths)
    assert world.fetch(slot, "https://upstream.example/") == "reached upstream.example"
    world.kill("gate")
    for blind in (False, True):
        assert "connect to" in world.fetch(slot, "https://upstream.example/", blind=blind)
    with pytest.raises(GateUnavailable):
        client.apply(slot.container)
    world.start("gate")
    assert client.list()[slot.container]["listeners"] == len(slot.listeners)
    assert world.fetch(slot, "https://upstream.example/") == "reached upstream.example"
    assert world.fetch(slot, "https://upstream.example/", blind=True) == "reached upstream.example"
    client.attach(slot.container)  # idempotent
    assert world.fetch(slot, "https://upstream.example/") == "reached upstream.example"


def test_a_gate_without_opener_attaches_when_the_opener_is_back(
    world: World, slot: SlotRecord
) -> None:
    client = GateClient(world.paths)
    world.kill("gate")
    world.kill("opener")
    world.start("gate")
    assert client.list()[slot.container] == {"error": "opener_unavailable"}
    world.start("opener")
    client.attach(slot.container)
    assert world.fetch(slot, "https://upstream.example/") == "reached upstream.example"


def test_a_taken_port_is_reported_and_leaves_nothing_open(world: World) -> None:
    record = world.container((), ["sleep", "infinity"])
    assert world.run(record, "python3", "-c", SQUATTER)[0] == 0
    client = GateClient(world.paths)
    with pytest.raises(GateRefused) as refused:
        client.attach(record.container)
    assert refused.value.reason == "port_taken"
    assert record.container not in client.list()
    _, output = world.run(record, "python3", "-c", UNREACHABLE, "127.0.0.1:3128", "127.0.0.2:80")
    assert output.split("\n")[:2] == ["127.0.0.1:3128 closed", "127.0.0.2:80 open"]


def test_detach_closes_and_may_be_repeated(world: World) -> None:
    record = world.container((), ["sleep", "infinity"])
    client = GateClient(world.paths)
    client.attach(record.container)
    probe = ("python3", "-c", UNREACHABLE, "127.0.0.1:3128")
    assert "open" in world.run(record, *probe)[1]
    client.detach(record.container)
    client.detach(record.container)
    client.detach("never-seen")
    assert "closed" in world.run(record, *probe)[1]
    client.attach(record.container)  # the same namespace again
    assert "open" in world.run(record, *probe)[1]
    client.detach(record.container)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sandbox_key": "/var/run/docker/netns/default"}, "no_namespace"),
        ({"sandbox_key": "/proc/1/ns/net"}, "no_namespace"),
        ({"sandbox_key": "/var/run/docker/netns/../../../proc/1/ns/net"}, "no_namespace"),
        ({"sandbox_key": "/var/run/docker/netns/0123456789ab"}, "no_namespace"),
        ({"sandbox_key": ""}, "no_namespace"),
        ({"listeners": [{"address": "0.0.0.0", "port": 1, "kind": "raw"}]}, "bad_record"),
    ],
)
def test_the_opener_enters_namespaces_of_containers_only(
    world: World, slot: SlotRecord, change: dict[str, Any], reason: str
) -> None:
    record = {**json.loads(slot.model_dump_json()), **change, "container": "forged"}
    world.write(SlotRecord.model_validate(record))
    with pytest.raises(GateRefused) as refused:
        OpenerClient(world.paths).listen("forged")
    assert refused.value.reason == reason
    world.paths.slot("forged").unlink()
    own = Path("/proc/self/ns/net").stat().st_ino
    assert Path(f"/proc/{world.services['opener'].pid}/ns/net").stat().st_ino == own


def test_more_sockets_than_one_message_can_carry(world: World) -> None:
    allow = tuple(Endpoint(host=f"h{number}.example") for number in range(199))
    record = world.container(allow, ["sleep", "infinity"])
    sockets = OpenerClient(world.paths).listen(record.container)
    places = [each.getsockname() for each in sockets]
    for each in sockets:
        each.close()
    assert places == [(each.address, each.port) for each in record.listeners]
    assert len(places) == 400


def test_personal_mounts_and_who_may_ask_for_them(world: World) -> None:
    opener, spec = OpenerClient(world.paths), TmpfsSpec(1000, 1000, 8)
    place = world.paths.personal("c-mount")
    opener.mount("c-mount", spec)
    (place / "kept").write_text("x")
    opener.mount("c-mount", spec)  # idempotent: what is in it stays
    assert (place / "kept").read_text() == "x"
    status = place.stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (1000, 0o700)
    line = next(
        each for each in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in each
    )
    assert {"nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))
    assert " - tmpfs " in line
    with pytest.raises(OSError, match="space"):
        (place / "big").write_bytes(bytes(9 << 20))
    opener.unmount("c-mount")
    opener.unmount("c-mount")
    assert not place.exists()
    # A planted link leads nowhere.
    target = world.paths.root / "elsewhere"
    target.mkdir()
    world.paths.personal("c-link").symlink_to(target)
    with pytest.raises(GateRefused):
        opener.mount("c-link", spec)
    assert str(target) not in Path("/proc/self/mountinfo").read_text()
    world.paths.personal("c-link").unlink()
    # The gate's user may have sockets opened, and nothing else.
    for op, allowed in (("mount", False), ("unmount", False), ("listen", True)):
        request = json.dumps({"op": op, "container": "x", "uid": 1, "gid": 1, "size_mib": 1})
        reply = subprocess.run(
            ["/usr/bin/python3", "-c", AS_GATE, str(world.paths.opener_socket), request],
            user=gate_user().uid,
            group=gate_user().gid,
            extra_groups=[],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert (json.loads(reply)["error"] != "forbidden") == allowed


def test_the_gate_runs_without_rights_and_stops_when_told(world: World) -> None:
    gate = world.services["gate"]
    status = Path(f"/proc/{gate.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert set(fields["Uid"].split()) == {str(gate_user().uid)}
    assert set(fields["Gid"].split()) == {str(gate_user().gid)}
    assert int(fields["CapEff"], 16) == 0
    gate.send_signal(signal.SIGTERM)
    assert gate.wait(20) == 0
    assert not world.paths.gate_socket.exists()
    assert gate.stdout is not None
    gate.stdout.close()
    world.start("gate")


def test_a_record_without_a_policy_for_its_phase_allows_nothing(world: World) -> None:
    record = world.container((Endpoint(host="upstream.example", named=True),), ["sleep", "9999"])
    client = GateClient(world.paths)
    client.attach(record.container)
    assert "reached" in world.fetch(record, "http://upstream.example/")
    world.write(record.model_copy(update={"policies": {Phase.PARKED: Policy(git=True)}}))
    client.apply(record.container)
    assert "(phase claimed)" in world.fetch(record, "http://upstream.example/")
    strange = Listener(address="127.9.9.9", port=9, kind="x")
    world.write(record.model_copy(update={"listeners": (strange,)}))
    with pytest.raises(GateRefused) as refused:
        client.attach(record.container)
    assert refused.value.reason == "bad_record"
