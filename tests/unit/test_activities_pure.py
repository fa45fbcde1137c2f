"""The parts of the activities that only think: registries, seccomp, people, marks, streams."""

import json
import os
import socket
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.builders import _with_lists
from activities.checkout import checkout_of, git_access
from activities.docker_http import _Chunks, socket_path
from activities.engine import _Frames
from activities.people import Person, find_person
from activities.registries import (
    debian_preset,
    is_remote,
    node_preset,
    python_preset,
    without_credentials,
)
from activities.saving import _parse
from activities.seccomp import restrict
from activities.worktree import _mark
from greenroom.core.config import PoolConfig
from greenroom.core.errors import PreparationError, UsageError
from greenroom.core.policy import Endpoint
from greenroom.core.records import Source

DEFAULTS = ("https://index.example/simple", "https://files.example")

# ── registries ───────────────────────────────────────────────────────────────────────────────


def hosts(endpoints: tuple[Endpoint, ...]) -> dict[str, tuple[int, ...]]:
    assert all(endpoint.named for endpoint in endpoints)
    return {endpoint.host: endpoint.ports for endpoint in endpoints}


def test_without_configuration_the_clients_default_and_its_file_host_are_allowed() -> None:
    preset = python_preset({}, DEFAULTS, {})
    assert hosts(preset.endpoints) == {"files.example": (443, 80), "index.example": (443, 80)}
    assert preset.environment == {}


def test_a_mirror_replaces_the_default_for_every_python_tool() -> None:
    preset = python_preset(
        {"global.index-url": "https://me:pw@pkg.internal.example:8443/simple"}, DEFAULTS, {}
    )
    assert hosts(preset.endpoints) == {"pkg.internal.example": (8443,)}
    assert preset.environment["PIP_INDEX_URL"] == preset.environment["UV_DEFAULT_INDEX"]
    assert "pw" in preset.environment["PIP_INDEX_URL"]
    plain = preset.plain_environment
    assert plain["UV_DEFAULT_INDEX"] == "https://pkg.internal.example:8443/simple"


def test_the_environment_wins_over_files_and_local_entries_are_left_out() -> None:
    configured = {
        "global.index-url": "https://old.example/simple",
        ":env:.index-url": "https://new.example/simple",
        "global.extra-index-url": "file:///opt/pypi http://localhost:1/x https://more.example/s",
    }
    preset = python_preset(configured, DEFAULTS, {})
    assert set(hosts(preset.endpoints)) == {"new.example", "more.example"}
    assert preset.environment["PIP_EXTRA_INDEX_URL"] == "https://more.example/s"


def test_an_index_of_this_machine_alone_means_the_default() -> None:
    preset = python_preset({"global.index-url": "file:///opt/simple"}, DEFAULTS, {})
    assert set(hosts(preset.endpoints)) == {"index.example", "files.example"}
    same = python_preset({"global.index-url": DEFAULTS[0] + "/"}, DEFAULTS, {})
    assert set(hosts(same.endpoints)) == {"index.example", "files.example"}


def test_node_and_debian_read_what_their_clients_say() -> None:
    node = node_preset("https://npm.internal.example/\n")
    assert hosts(node.endpoints) == {"npm.internal.example": (443, 80)}
    assert node.environment == {"npm_config_registry": "https://npm.internal.example/"}
    assert node_preset("undefined").endpoints == ()
    sites = "http://deb.example/debian\nfile:/opt/x\nhttp://deb.example/debian-security\n\n"
    assert hosts(debian_preset(sites).endpoints) == {"deb.example": (80, 443)}


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("https://a.example/x", True),
        ("http://10.0.0.1/x", True),
        ("http://127.0.0.1:3141/x", False),
        ("http://[::1]/x", False),
        ("http://localhost/x", False),
        ("file:///x", False),
        ("cdrom:[Debian]", False),
        ("", False),
    ],
)
def test_what_a_container_could_reach(url: str, remote: bool) -> None:
    assert is_remote(url) is remote


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://u:p@h.example:1/x", "https://h.example:1/x"),
        ("ssh://git@h.example/x", "ssh://h.example/x"),
        ("git@h.example:x.git", "git@h.example:x.git"),
        ("/a/path", "/a/path"),
    ],
)
def test_credentials_are_taken_off(url: str, plain: str) -> None:
    assert without_credentials(url) == plain


# ── seccomp ──────────────────────────────────────────────────────────────────────────────────


def test_sockets_are_an_allow_list_and_everything_else_is_kept() -> None:
    engine = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": ["read", "socket", "socketpair", "socketcall"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40}]},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1}]},
        ],
    }
    before = json.dumps(engine)
    made = restrict(engine)
    assert json.dumps(engine) == before
    assert made["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]
    assert made["defaultErrnoRet"] == 1
    assert {"names": ["read", "socketpair"], "action": "SCMP_ACT_ALLOW"} in made["syscalls"]
    assert engine["syscalls"][2] in made["syscalls"]
    sockets = [rule for rule in made["syscalls"] if "socket" in rule["names"]]
    allowed = [tuple((a["index"], a["value"], a["op"]) for a in rule["args"]) for rule in sockets]
    equal = "SCMP_CMP_EQ"
    assert allowed == [
        ((0, socket.AF_UNIX, equal),),
        ((0, socket.AF_INET, equal),),
        ((0, socket.AF_INET6, equal),),
        ((0, socket.AF_NETLINK, equal), (2, 0, equal)),
    ]
    assert not any("socketcall" in rule["names"] for rule in made["syscalls"])


# ── people ───────────────────────────────────────────────────────────────────────────────────

PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\napp:x:7:8::/srv:/bin/sh\n"
)
GROUP = "root:x:0:\nstaff:x:50:\n"


@pytest.mark.parametrize(
    ("user", "person"),
    [
        ("app", Person("app", 7, 8, "/srv")),
        ("7", Person("app", 7, 8, "/srv")),
        ("app:staff", Person("app", 7, 50, "/srv")),
        ("app:99", Person("app", 7, 99, "/srv")),
        ("1234", Person("agent", 1234, 1234, "/home/agent")),
        ("", Person("node", 1000, 1001, "/home/node")),
        ("root", Person("node", 1000, 1001, "/home/node")),
        ("0:0", Person("node", 1000, 0, "/home/node")),
    ],
)
def test_nobody_is_root(user: str, person: Person) -> None:
    assert find_person(PASSWD, GROUP, user) == person
    assert Person.from_label(person.label) == person


def test_an_image_without_users_gets_one() -> None:
    assert find_person("root:x:0:0::/root:/bin/sh\n", "", "") == Person(
        "agent", 1000, 1000, "/home/agent"
    )


# ── streams ──────────────────────────────────────────────────────────────────────────────────


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(marks)]


@given(st.lists(st.binary(min_size=1, max_size=300)), st.lists(st.integers(0, 9999)))
def test_chunks_come_out_whole_however_they_are_cut(body: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in body) + b"0\r\n\r\n"
    chunks = _Chunks()
    assert b"".join(chunks.feed(piece) for piece in pieces(wire, cuts)) == b"".join(body)
    assert chunks.ended


@given(
    st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=300))),
    st.lists(st.integers(0, 9999)),
)
def test_output_is_told_apart_however_it_is_cut(
    frames: list[tuple[bool, bytes]], cuts: list[int]
) -> None:
    wire = b"".join(
        bytes([2 if error else 1, 0, 0, 0]) + len(data).to_bytes(4, "big") + data
        for error, data in frames
    )
    seen: list[tuple[bool, bytes]] = []
    sink = _Frames(lambda error, data: seen.append((error, data)))
    for piece in pieces(wire, cuts):
        sink.feed(piece)
    assert seen == frames


def test_a_remote_engine_is_refused() -> None:
    assert socket_path("unix:///x/y.sock") == "/x/y.sock"
    with pytest.raises(UsageError, match="remote"):
        socket_path("tcp://198.51.100.1:2375")


# ── the work tree's mark ─────────────────────────────────────────────────────────────────────


def change_content(tree: Path) -> None:
    (tree / "a" / "f").write_text("other")


def change_back(tree: Path) -> None:
    """The same content, size and modification time: the change time still tells."""
    old = (tree / "a" / "f").stat()
    (tree / "a" / "f").write_text("text")
    os.utime(tree / "a" / "f", ns=(old.st_atime_ns, old.st_mtime_ns))


def change_mode(tree: Path) -> None:
    (tree / "a" / "f").chmod(0o600)


def add_file(tree: Path) -> None:
    (tree / "a" / "new").write_text("")


def remove_file(tree: Path) -> None:
    (tree / "a" / "f").unlink()


def replace_by_link(tree: Path) -> None:
    (tree / "a" / "f").unlink()
    (tree / "a" / "f").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    "change",
    [change_content, change_back, change_mode, add_file, remove_file, replace_by_link],
)
def test_every_change_changes_the_mark(tmp_path: Path, change) -> None:  # noqa: ANN001
    (tmp_path / "work" / "a").mkdir(parents=True)
    (tmp_path / "work" / "a" / "f").write_text("text")
    (tmp_path / "tmp").mkdir()
    before = _mark(str(tmp_path), ["work"])
    (tmp_path / "tmp" / "elsewhere").write_text("x")
    assert _mark(str(tmp_path), ["work"]) == before
    clock, now = tmp_path / "tmp" / "clock", (tmp_path / "work" / "a" / "f").stat().st_ctime_ns
    clock.write_text("x")
    while clock.stat().st_ctime_ns == now:  # the file system's clock ticks every few milliseconds
        clock.write_text("x")
    change(tmp_path / "work")
    assert _mark(str(tmp_path), ["work"]) != before


def test_a_tree_that_is_too_deep_has_no_mark(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    folder = os.open(tmp_path / "work", os.O_RDONLY)
    for _ in range(2000):  # deeper than any path or Python's stack
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert _mark(str(tmp_path), ["work"]) == ""
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    subprocess.run(["rm", "-rf", str(tmp_path / "work")], check=True)


def test_a_mark_that_cannot_be_had_is_empty_and_an_untouched_tree_has_one(tmp_path: Path) -> None:
    assert _mark(str(tmp_path / "nothing"), ["work"]) == ""
    assert _mark(str(tmp_path), ["work"]) == _mark(str(tmp_path), ["work"]) != ""


# ── small ones ───────────────────────────────────────────────────────────────────────────────


def source(ref: str) -> Source:
    return Source(commit="c" * 40, ref=ref, mirror="key", dependencies="d", fingerprint="f")


def test_a_checkout_has_a_branch_only_where_there_is_one() -> None:
    config = PoolConfig(name="p", repo="https://u@git.example/x.git")
    checkout = checkout_of(config, source("refs/heads/a/b"))
    assert (checkout.branch, checkout.real) == ("a/b", "https://git.example/x.git")
    assert checkout.mirror == "http://git.greenroom.internal/key.git"
    assert checkout_of(config, source("refs/tags/v1")).branch == ""
    assert git_access("p", source("HEAD")).refs == ("refs/greenroom/p", "refs/tags")


def test_package_lists_are_fetched_once_before_the_first_install() -> None:
    lines = ("echo x", "apt-get install -y a", "apt install b")
    config = PoolConfig(name="p", repo="/r", system=lines)
    assert [_with_lists(config, i) for i in range(3)] == [
        "echo x",
        "apt-get -q update\napt-get install -y a",
        "apt install b",
    ]
    own = PoolConfig(name="p", repo="/r", system=("apt-get update && apt-get install -y a",))
    assert _with_lists(own, 0) == own.system[0]


@pytest.mark.parametrize("said", ["", "x", "greenroom-result 1 2", "greenroom-result 1 2 x"])
def test_a_saver_that_says_nonsense_is_not_believed(said: str) -> None:
    with pytest.raises(PreparationError):
        _parse(said)
