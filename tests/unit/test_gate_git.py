"""The git server with the real git: clone, depth, filter, hidden refs, refused pushes."""

import asyncio
import gzip
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from gate_lab import Lab, lab, until

from greenroom.core.policy import Listener, Phase
from greenroom.core.slotfile import GitAccess
from greenroom.gate.git import Ask

GIT = Listener(address="127.77.0.4", port=80, kind="git")
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example",
}


def run(*words: str, cwd: Path) -> str:
    done = subprocess.run(
        ["git", *words], cwd=cwd, env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


async def git(*words: str, cwd: Path, expect: int = 0) -> str:
    """The real git, while this process serves it; its output both ways."""
    process = await asyncio.create_subprocess_exec(
        "git",
        *words,
        cwd=cwd,
        env=ENVIRONMENT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    assert (process.returncode == 0) == (expect == 0), output.decode()
    return output.decode().strip()


@pytest.fixture
def mirrors(tmp_path: Path) -> Path:
    """A bare mirror ``repo.git`` with main (three commits) and a branch that stays hidden."""
    work = tmp_path / "work"
    work.mkdir()
    run("init", "-q", "-b", "main", cwd=work)
    for number in range(3):
        (work / f"file{number}").write_text("line\n" * 5000 + str(number))
        run("add", ".", cwd=work)
        run("commit", "-q", "-m", f"commit {number}", cwd=work)
    run("checkout", "-q", "-b", "secret", cwd=work)
    (work / "secret").write_text("secret")
    run("add", ".", cwd=work)
    run("commit", "-q", "-m", "secret", cwd=work)
    folder = tmp_path / "mirrors"
    folder.mkdir()
    run("clone", "-q", "--mirror", str(work), str(folder / "repo.git"), cwd=tmp_path)
    run("symbolic-ref", "HEAD", "refs/heads/main", cwd=folder / "repo.git")
    # Mirrors belong to root and are served by another user: git calls that dubious.
    os.chown(folder / "repo.git", 12345, 12345)
    return folder


@asynccontextmanager
async def served(mirrors: Path, *refs: str) -> AsyncIterator[tuple[Lab, str]]:
    access = GitAccess(key="repo", refs=refs or ("HEAD", "refs/heads/main"))
    async with lab(mirrors, [GIT], [], access) as gate:
        host, port = gate.places[0]
        yield gate, f"http://{host}:{port}/repo.git"


@pytest.mark.parametrize("version", ["0", "1", "2"])
async def test_clone_shows_the_allowed_refs_only(
    mirrors: Path, tmp_path: Path, version: str
) -> None:
    async with served(mirrors) as (gate, url):
        protocol = ["-c", f"protocol.version={version}"]
        await git(*protocol, "clone", "-q", url, "copy", cwd=tmp_path)
        assert run("log", "--format=%s", cwd=tmp_path / "copy").split("\n")[0] == "commit 2"
        refs = await git(*protocol, "ls-remote", url, cwd=tmp_path)
        assert {line.split("\t")[1] for line in refs.splitlines()} == {"HEAD", "refs/heads/main"}
        await git(*protocol, "fetch", "-q", url, "secret", cwd=tmp_path / "copy", expect=128)
        assert all(line["verdict"] == "allowed" for line in gate.lines)
    async with served(mirrors, "HEAD", "refs/heads/main", "refs/heads/secret") as (_, url):
        await git("fetch", "-q", url, "secret", cwd=tmp_path / "copy")  # the positive control


async def test_depth_filter_and_an_older_commit_work(mirrors: Path, tmp_path: Path) -> None:
    older = run("rev-parse", "main~1", cwd=mirrors.parent / "work")
    async with served(mirrors) as (_, url):
        await git("clone", "-q", "--depth", "1", url, "shallow", cwd=tmp_path)
        assert run("rev-list", "--count", "HEAD", cwd=tmp_path / "shallow") == "1"
        await git("clone", "-q", "--filter=blob:none", url, "partial", cwd=tmp_path)
        assert (tmp_path / "partial" / "file2").exists()
        run("init", "-q", "one", cwd=tmp_path)
        await git("fetch", "-q", "--depth", "1", url, older, cwd=tmp_path / "one")
        assert run("rev-parse", "FETCH_HEAD", cwd=tmp_path / "one") == older


async def test_a_long_negotiation_works(mirrors: Path, tmp_path: Path) -> None:
    async with served(mirrors) as (_, url):
        await git("clone", "-q", url, "copy", cwd=tmp_path)
        for number in range(300):  # many commits that the server lacks: a body over 1 KiB
            run("commit", "-q", "--allow-empty", "-m", str(number), cwd=tmp_path / "copy")
        work = mirrors.parent / "work"
        run("checkout", "-q", "main", cwd=work)
        run("commit", "-q", "--allow-empty", "-m", "newest", cwd=work)
        fetch = ["-c", "safe.directory=*", "fetch", "-q", str(work), "+refs/*:refs/*"]
        run(*fetch, cwd=mirrors / "repo.git")
        await git("fetch", "-q", cwd=tmp_path / "copy")
        assert run("log", "-1", "--format=%s", "origin/main", cwd=tmp_path / "copy") == "newest"


async def test_pushes_are_refused_in_words(mirrors: Path, tmp_path: Path) -> None:
    async with served(mirrors) as (gate, url):
        await git("clone", "-q", url, "copy", cwd=tmp_path)
        output = await git("push", "-q", url, "main", cwd=tmp_path / "copy", expect=128)
        assert "403" in output
        assert [line for line in gate.lines if line["verdict"] == "denied"]


async def request(gate: Lab, raw: bytes) -> tuple[bytes, bytes]:
    reader, writer = await gate.dial()
    writer.write(raw)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /repo.git/info/refs?service=git-upload-pack", 200),
        ("GET /repo.git/info/refs?service=git-receive-pack", 403),
        ("POST /repo.git/git-receive-pack", 403),
        ("GET /repo.git/info/refs", 403),
        ("GET /repo.git/HEAD", 404),
        ("GET /repo.git/objects/info/packs", 404),
        ("GET /repo.git/../repo.git/info/refs?service=git-upload-pack", 404),
        ("GET /other.git/info/refs?service=git-upload-pack", 404),
        ("GET //etc/passwd", 404),
        ("PUT /repo.git/git-upload-pack", 404),
        ("CONNECT repo.git:80", 404),
    ],
)
async def test_only_fetches_of_the_one_repository(mirrors: Path, line: str, status: int) -> None:
    async with served(mirrors) as (gate, _):
        raw = f"{line} HTTP/1.1\r\nHost: git.greenroom.internal\r\nConnection: close\r\n\r\n"
        head, _ = await request(gate, raw.encode())
        assert head.startswith(f"HTTP/1.1 {status} ".encode())


async def test_a_zipped_body_and_a_broken_one(mirrors: Path) -> None:
    body = b"0014command=ls-refs\n00010000"
    for data, good in ((gzip.compress(body), True), (b"not gzip at all", False)):
        raw = (
            b"POST /repo.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Git-Protocol: version=2\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
            % len(data)
        )
        async with served(mirrors) as (gate, _):
            head, answer = await request(gate, raw + data)
            assert head.startswith(b"HTTP/1.1 200" if good else b"HTTP/1.1 500")
            assert (b"refs/heads/main" in answer) == good


async def test_a_body_in_chunks(mirrors: Path) -> None:
    async with served(mirrors) as (gate, _):
        _, answer = await request(
            gate,
            b"POST /repo.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Git-Protocol: version=2\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"a\r\n0014comman\r\n12\r\nd=ls-refs\n00010000\r\n0\r\n\r\n",
        )
        assert b"refs/heads/main" in answer


async def test_git_is_closed_in_the_ended_phase_and_open_when_parked(
    mirrors: Path, tmp_path: Path
) -> None:
    async with served(mirrors) as (gate, url):
        assert gate.site is not None
        await git("ls-remote", url, cwd=tmp_path)
        ended = gate.record([], Phase.ENDED)
        gate.site.apply(ended)
        await git("ls-remote", url, cwd=tmp_path, expect=128)
        gate.site.apply(ended.model_copy(update={"phase": Phase.PARKED}))
        head, _ = await request(
            gate, b"GET /repo.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert head.startswith(b"HTTP/1.1 403 ")  # the record has no policy for that phase


def children() -> set[str]:
    """Process ids of this process's children."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # that thread is over
            found |= set((task / "children").read_text().split())
    return found


async def test_git_dies_with_its_client_and_by_a_cut(mirrors: Path) -> None:
    before = children()
    head = (
        b"POST /repo.git/git-upload-pack HTTP/1.1\r\nHost: x\r\n"
        b"Git-Protocol: version=2\r\nContent-Length: 100000\r\n\r\n"
    )
    async with served(mirrors) as (gate, _):
        assert gate.site is not None
        for how in ("client", "cut"):
            _, writer = await gate.dial()
            writer.write(head)
            await until(lambda: len(children() - before) == 1)
            if how == "client":
                writer.transport.abort()
            else:
                gate.site.apply(gate.record([], Phase.ENDED))
            await until(lambda: children() == before)
            await until(lambda: gate.site is not None and gate.site.connections == 0)


def test_the_command_line_hides_all_but_the_listed_refs(tmp_path: Path) -> None:
    ask = Ask(tmp_path / "r.git", ("HEAD", "refs/heads/main"), True, "", False)
    words = ask.command()
    shown = words.index("transfer.hideRefs=!refs/heads/main")
    assert words.index("transfer.hideRefs=refs/") < shown
    assert words[-1] == str(tmp_path / "r.git")
