"""Read-only git over smart HTTP: what a container can fetch of its pool's own repository.

One mirror per record, and of it the refs that the record lists: others are hidden, which keeps
them out of what is advertised. git itself does not keep objects of hidden refs from somebody
who knows their ids, so a mirror holds nothing but what its pools may see.
"""

from __future__ import annotations

import asyncio
import os
import re
import zlib
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import h11

from greenroom.core.policy import GIT_NAME
from greenroom.gate.authority import Target
from greenroom.gate.http1 import BadRequestError, Headers, HttpPeer
from greenroom.gate.site import Flow, RefusalError

_CHUNK = 65536
_GIT_TIMEOUT_S = 3600.0
_PATH = re.compile(rb"/([A-Za-z0-9][A-Za-z0-9._-]{0,127})\.git/(.*)")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PROTOCOL = re.compile(rb"version=[0-9](:[a-z0-9=-]{1,32}){0,4}")
_READ_ONLY = "greenroom: this mirror is read-only; push to the repository's own address"
_TARGET = Target(GIT_NAME, 80)


@dataclass(frozen=True)
class Ask:
    """One accepted request: the mirror, its visible refs, and what git needs to know."""

    mirror: Path
    refs: tuple[str, ...]
    advertise: bool
    protocol: str
    gzip: bool

    def command(self) -> list[str]:
        """The git command line; options come from here alone, never from the container."""
        settings = [f"safe.directory={self.mirror}", "uploadpack.allowFilter=true"]
        settings += ["uploadpack.allowReachableSHA1InWant=true", "transfer.hideRefs=refs/"]
        settings += [f"transfer.hideRefs=!{ref}" for ref in self.refs]
        options = [word for setting in settings for word in ("-c", setting)]
        advertise = ["--http-backend-info-refs"] if self.advertise else []
        return ["git", *options, "upload-pack", "--stateless-rpc", *advertise, str(self.mirror)]

    def environment(self) -> dict[str, str]:
        """Nothing of the host's own git configuration plays a part."""
        fixed = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_NO_REPLACE_OBJECTS": "1",
            "LC_ALL": "C.UTF-8",
        }
        return {**fixed, "GIT_PROTOCOL": self.protocol} if self.protocol else fixed


async def serve(flow: Flow) -> None:
    """Serve fetches on one connection. Raises OSError when the container is gone."""
    peer = HttpPeer(flow.reader, flow.writer)
    try:
        while (request := await peer.request()) is not None:
            flow.git = True
            ask = accept(flow, request)
            async with flow.site.git_slots:
                await _answer(flow, peer, ask)
            if not peer.keep():
                return
    except RefusalError as error:
        flow.site.around.books.denied(flow.site.caller, _TARGET, error.message)
        await peer.refuse(error.status, error.message)
    except BadRequestError as error:
        await peer.refuse(error.status, error.message)


def accept(flow: Flow, request: h11.Request) -> Ask:
    """Decide on one request. Raises RefusalError."""
    record = flow.site.record
    path, _, query = request.target.partition(b"?")
    matched = _PATH.fullmatch(path)
    if not record.policy.git:
        raise RefusalError(403, f"greenroom: git is not allowed (phase {record.phase})")
    if b"git-receive-pack" in path or b"git-receive-pack" in query:
        raise RefusalError(403, _READ_ONLY)
    access = record.git
    if matched is None or access is None or matched[1].decode("ascii") != access.key:
        raise RefusalError(404, "greenroom: no such repository here")
    if not _KEY.fullmatch(access.key) or any(not _plain_ref(ref) for ref in access.refs):
        raise RefusalError(404, "greenroom: the record of this repository is not usable")
    advertise = request.method == b"GET" and matched[2] == b"info/refs"
    if advertise and query != b"service=git-upload-pack":
        raise RefusalError(403, "greenroom: only smart HTTP is served")
    if not advertise and (request.method, matched[2]) != (b"POST", b"git-upload-pack"):
        raise RefusalError(404, "greenroom: only fetches are served")
    headers = {bytes(name): bytes(value) for name, value in request.headers}
    protocol = headers.get(b"git-protocol", b"")
    return Ask(
        mirror=flow.site.around.mirrors / f"{access.key}.git",
        refs=access.refs,
        advertise=advertise,
        protocol=protocol.decode("ascii") if _PROTOCOL.fullmatch(protocol) else "",
        gzip=headers.get(b"content-encoding", b"").lower() in {b"gzip", b"x-gzip"},
    )


def _plain_ref(ref: str) -> bool:
    return ref == "HEAD" or (ref.startswith("refs/") and ref.isprintable() and " " not in ref)


async def _answer(flow: Flow, peer: HttpPeer, ask: Ask) -> None:
    if not ask.mirror.is_dir():
        raise RefusalError(404, "greenroom: the mirror is not there")
    entry = flow.site.around.books.allowed(flow.site.caller, _TARGET)
    reason = "gone"
    try:
        async with _running(flow, ask) as process, asyncio.timeout(_GIT_TIMEOUT_S):
            upload = asyncio.create_task(_upload(peer, process, ask))
            try:
                entry.down = await _download(peer, process, ask)
                reason = "done" if await process.wait() == 0 else f"git exit {process.returncode}"
            finally:
                upload.cancel()
                await asyncio.gather(upload, return_exceptions=True)
    except TimeoutError:
        reason = "git took too long"
        flow.writer.transport.abort()
    finally:
        entry.close(flow.cut_reason or reason)


@asynccontextmanager
async def _running(flow: Flow, ask: Ask) -> AsyncIterator[Process]:
    """The git process; it and its children are dead when the block is left."""
    process = await asyncio.create_subprocess_exec(
        *ask.command(),
        stdin=PIPE,
        stdout=PIPE,
        stderr=DEVNULL,
        env=ask.environment(),
        cwd="/",
        start_new_session=True,
        limit=_CHUNK * 4,
    )

    def kill() -> None:
        if process.returncode is None:
            try:
                # The whole group: pack-objects is a child of upload-pack.
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                return  # it ended by itself just now

    flow.on_cut(kill)
    try:
        yield process
    finally:
        kill()
        await process.wait()


async def _upload(peer: HttpPeer, process: Process, ask: Ask) -> None:
    """Feed the request's body to git, then watch for the container to go away."""
    stdin = process.stdin
    if stdin is None:
        raise BrokenPipeError
    try:
        await peer.accept_body()
        unzip = zlib.decompressobj(16 + zlib.MAX_WBITS) if ask.gzip else None
        while isinstance(event := await peer.event(), h11.Data):
            pending = bytes(event.data)
            if unzip is None:
                stdin.write(pending)
                await stdin.drain()
            while unzip is not None and pending and not unzip.eof:
                # In pieces: a small body may unfold to a huge one.
                stdin.write(unzip.decompress(pending, _CHUNK))
                await stdin.drain()
                pending = unzip.unconsumed_tail
        stdin.close()
        if isinstance(event, h11.EndOfMessage):
            await peer.wait_gone()
    except (BadRequestError, zlib.error):
        pass  # not a request that git could answer: ended below
    except OSError:
        return  # git stopped reading; what it says goes on to the container
    os.killpg(process.pid, 9)


async def _download(peer: HttpPeer, process: Process, ask: Ask) -> int:
    """Pass git's output on; returns its bytes. Raises OSError when the container is gone."""
    stdout = process.stdout
    if stdout is None:
        raise BrokenPipeError
    first = await stdout.read(_CHUNK)
    if not first and await process.wait() != 0:
        raise RefusalError(500, f"greenroom: git failed with code {process.returncode}")
    kind = "advertisement" if ask.advertise else "result"
    headers: Headers = [
        (b"Content-Type", f"application/x-git-upload-pack-{kind}".encode()),
        (b"Cache-Control", b"no-cache, max-age=0, must-revalidate"),
    ]
    await peer.send(h11.Response(status_code=200, headers=headers, reason=b"OK"))
    if ask.advertise and "version=2" not in ask.protocol:
        await peer.send(h11.Data(data=b"001e# service=git-upload-pack\n0000"))
    count = 0
    while first:
        count += len(first)
        await peer.send(h11.Data(data=first))
        first = await stdout.read(_CHUNK)
    if await process.wait() != 0 and ask.advertise:
        raise ConnectionResetError("git failed")
    await peer.send(h11.EndOfMessage())
    return count
