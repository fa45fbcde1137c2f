"""Slots on the real engine: hardened, at their commit, idempotent, and gone without a trace."""

from collections.abc import Iterator

import pytest
from hosts import Host, Repo, pool_config
from making import Made, Slot, build_snapshot, ready_slot, remove, sh
from temporalio.exceptions import ApplicationError

from activities.containers import Containers
from activities.engine import Exec, no_tick
from activities.profiles import new_ident
from activities.slotfiles import all_slots, read_slot
from greenroom.core.messages import ContainerInput
from greenroom.core.policy import GIT_NAME, Phase

pytestmark = pytest.mark.docker

SOCKETS = """
import socket
for family, kind, protocol in [
    (1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 2, 0), (10, 1, 0), (16, 3, 0),
    (40, 1, 0), (38, 5, 0), (17, 3, 0), (16, 3, 9), (31, 3, 0), (44, 3, 0),
]:
    try:
        socket.socket(family, kind, protocol).close()
        print(family, protocol, "open")
    except OSError as error:
        print(family, protocol, "refused", error.errno)
left, right = socket.socketpair()
left.send(b"x")
assert right.recv(1) == b"x"
listener = socket.create_server(("127.0.0.1", 0))
peer = socket.create_connection(listener.getsockname())
accepted, _ = listener.accept()
peer.send(b"y")
assert accepted.recv(1) == b"y"
print("pair and tcp work")
"""
# A static 32-bit program: socketcall(SYS_SOCKET, {AF_VSOCK, SOCK_STREAM, 0}), exit code 42 when
# it got a socket, 41 when it was refused.
OLD_ABI = r"""
cat > /tmp/a.s <<'END'
.data
args: .long 40, 1, 0
.text
.globl _start
_start:
    mov $102, %eax
    mov $1, %ebx
    mov $args, %ecx
    int $0x80
    test %eax, %eax
    js refused
    mov $42, %ebx
    jmp out
refused:
    mov $41, %ebx
out:
    mov $1, %eax
    int $0x80
END
as --32 -o /tmp/a.o /tmp/a.s && ld -m elf_i386 -o /tmp/a /tmp/a.o || exit 99
/tmp/a
"""


@pytest.fixture(scope="module")
def made(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Made:
    repo = Repo(tmp_path_factory.mktemp("containers") / "source")
    repo.commit({"hello.txt": "hello\n", ".gitignore": "built/\n"})
    config = pool_config(str(repo.path), name="slots")
    return repo, config, build_snapshot(host, config)


@pytest.fixture
def slot(host: Host, made: Made) -> Iterator[Slot]:
    _, config, snapshot = made
    ready = ready_slot(host, config, snapshot)
    yield ready
    remove(host, ready)


def test_a_ready_slot_is_at_its_commit_with_its_artefacts(
    host: Host, made: Made, slot: Slot
) -> None:
    repo, _, snapshot = made
    seen = sh(host, slot, "git rev-parse HEAD; git status --porcelain; cat built/out built/deps")
    assert seen.stdout.split() == [snapshot.source.commit, "artefact", "installed"]
    assert sh(host, slot, "git rev-parse origin/main").stdout.strip() == snapshot.source.commit
    assert sh(host, slot, "git remote get-url --push origin").stdout.strip() == str(repo.path)
    assert GIT_NAME in sh(host, slot, "git remote get-url origin").stdout
    fetched = sh(host, slot, "git fetch origin main 2>&1")
    assert fetched.code == 0, fetched.stdout


def test_a_slot_has_no_privilege_and_every_limit(host: Host, slot: Slot) -> None:
    seen = host.ctx.engine.inspect(slot.docker_id)
    settings = seen["HostConfig"]
    assert settings["NetworkMode"] == "none"
    assert settings["CapDrop"] == ["ALL"]
    assert settings["Memory"] == settings["MemorySwap"] == 256 << 20
    assert settings["PidsLimit"] == 128
    assert settings["NanoCpus"] == 1_000_000_000
    assert settings["RestartPolicy"]["Name"] == "no"
    status = sh(host, slot, "cat /proc/self/status; id -u; ls /sys/class/net").stdout
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    assert status.split()[-2:] == ["1000", "lo"]
    assert not any("docker.sock" in str(mount) for mount in seen["Mounts"])


def test_only_the_usual_socket_families_can_be_used(host: Host, slot: Slot) -> None:
    done = host.ctx.engine.capture(Exec(slot.docker_id, ("python3", "-c", SOCKETS)), no_tick)
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.endswith("open")] == [
        "1 0 open", "1 0 open", "2 0 open", "2 0 open", "10 0 open", "16 0 open"
    ]  # fmt: skip
    refused = [line.split() for line in lines if "refused" in line]
    assert {(line[0], line[1]) for line in refused} == {
        ("40", "0"), ("38", "0"), ("17", "0"), ("16", "9"), ("31", "0"), ("44", "0")
    }  # fmt: skip
    assert {line[3] for line in refused} == {"1"}  # by the filter, not for want of a module
    assert lines[-1] == "pair and tcp work"


def test_the_old_32_bit_way_to_a_socket_is_closed_too(host: Host, slot: Slot) -> None:
    done = sh(host, slot, OLD_ABI)
    assert done.code not in {42, 99}, done.stderr


def test_creating_again_gives_the_same_container(host: Host, made: Made, slot: Slot) -> None:
    again = Containers(host.ctx).create_container(slot.asked)
    assert again.docker_id == slot.docker_id
    assert host.ctx.gate.list()[slot.container]["listeners"] == 2


def test_creating_again_replaces_one_that_died(host: Host, slot: Slot) -> None:
    host.ctx.engine.kill(slot.docker_id)
    again = Containers(host.ctx).create_container(slot.asked)
    assert again.docker_id != slot.docker_id
    record = read_slot(host.paths, slot.container)
    assert (record.docker_id, record.phase) == (again.docker_id, Phase.PARKED)


def test_removing_leaves_nothing_and_can_be_repeated(host: Host, made: Made) -> None:
    _, config, snapshot = made
    ready = ready_slot(host, config, snapshot)
    for _ in range(2):
        remove(host, ready)
        assert host.ctx.engine.inspect(ready.docker_id) is None
        assert ready.container not in all_slots(host.paths)
        assert ready.container not in host.ctx.gate.list()
        assert not host.paths.personal(ready.container).exists()
        assert not list(host.paths.slots.glob(f".{ready.container}*"))


def test_a_slot_of_a_moved_branch_is_still_at_its_snapshots_commit(
    host: Host, made: Made, slot: Slot
) -> None:
    repo, config, snapshot = made
    repo.git("commit", "-q", "--allow-empty", "-m", "later")
    ready = ready_slot(host, config, snapshot)
    try:
        seen = sh(host, ready, "git rev-parse HEAD origin/main")
        assert set(seen.stdout.split()) == {snapshot.source.commit}
    finally:
        remove(host, ready)


def test_a_work_tree_that_cannot_be_brought_to_the_commit_is_a_failure(
    host: Host, made: Made, slot: Slot
) -> None:
    assert sh(host, slot, "touch not-ignored && echo x >> hello.txt").code == 0
    with pytest.raises(ApplicationError, match="cloning failed") as failed:
        Containers(host.ctx).clone_in(slot.asked)
    assert failed.value.type == "preparation"
    assert failed.value.non_retryable
    assert "not-ignored" in failed.value.details[0]["tail"]
    sh(host, slot, "rm not-ignored")
    Containers(host.ctx).clone_in(slot.asked)  # the tracked change alone is put right
    assert sh(host, slot, "git status --porcelain; cat hello.txt").stdout == "hello\n"


def test_an_image_that_is_gone_is_a_failure_that_says_so(host: Host, made: Made) -> None:
    _, config, snapshot = made
    gone = snapshot.model_copy(update={"image_id": "sha256:" + "0" * 64})
    asked = ContainerInput(pool="slots", container=new_ident(), config=config, snapshot=gone)
    with pytest.raises(ApplicationError, match="not on this host"):
        Containers(host.ctx).create_container(asked)
    assert asked.container not in all_slots(host.paths)


def test_a_gate_that_restarted_serves_the_slot_again(host: Host, slot: Slot) -> None:
    host.gate.kill()
    assert sh(host, slot, "git ls-remote origin").code != 0
    host.gate.start()
    assert sh(host, slot, "git ls-remote origin").code == 0
