"""``greenroom cp``: files between here and a claimed container."""

from __future__ import annotations

import http.client
import os
import posixpath
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import click

from greenroom.cli.http_client import Api, open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import emit, say, size
from greenroom.cli.unpacking import Unpacker
from greenroom.core.errors import BackendError, UsageError
from greenroom.core.wire import error_of, url

_PIECE = 256 * 1024
_PATIENCE_S = 600.0
_LIMIT = 2 << 30


@click.command("cp")
@click.argument("source")
@click.argument("target")
@json_option
def command(source: str, target: str, as_json: bool) -> None:  # noqa: FBT001
    """Copy a file or a folder; one of SOURCE and TARGET is CLAIM:PATH.

    A TARGET that ends with a slash (or is a folder here) gets it under its own name, any other
    TARGET is its new name. Paths in the container are relative to the work tree.
    """
    there, here = _remote(source), _remote(target)
    if (there is None) == (here is None):
        raise UsageError("one of the two is CLAIM:PATH, the other a path here (./a:b for a colon)")
    api = open_api()
    told = (
        _fetch(api, *there, Path(target), into=target.endswith("/"))
        if there is not None
        else _send(api, Path(source), *cast("tuple[str, str]", here))
    )
    for line in told["left_out"]:
        say(f"left out {line}")
    if as_json:
        emit(told)
    else:
        files = "1 file" if told["files"] == 1 else f"{told['files']} files"
        print(f"{files}, {size(told['bytes'])} to {told['target']}")


def _remote(text: str) -> tuple[str, str] | None:
    """Claim and path; None for a path here."""
    claim, colon, path = text.partition(":")
    if not colon or "/" in claim or not claim:
        return None
    return claim, path or "."


def _fetch(api: Api, claim: str, path: str, target: Path, *, into: bool) -> dict[str, Any]:
    own = posixpath.basename(path.rstrip("/"))
    if own in ("", ".."):
        raise UsageError(f"{path}: name the folder itself")
    own = claim if own == "." else own
    inside = into or target.is_dir()
    folder, name = (target, own) if inside else (target.parent, target.name)
    connection = api.connection(_PATIENCE_S)
    unpacker = Unpacker(folder, name, _LIMIT)
    try:
        connection.request(
            "GET", url("claims", claim, "files", path=path), headers=api.endpoint.headers
        )
        answer = connection.getresponse()
        if answer.status >= 400:
            raise error_of(answer.status, answer.read())
        folder.mkdir(parents=True, exist_ok=True)
        unpacker.unpack(cast("IO[bytes]", answer))
        while answer.read(_PIECE):  # to its end: one that was cut off raises here
            pass
    except (http.client.HTTPException, tarfile.TarError, ValueError, ConnectionError) as error:
        raise BackendError(f"the copy of {path} broke off: {error}") from error
    except OSError as error:
        raise UsageError(f"{target}: {error}") from error
    finally:
        connection.close()
    return {
        "claim_id": claim,
        "target": str(folder / name),
        "files": unpacker.files,
        "bytes": unpacker.bytes,
        "left_out": unpacker.left_out,
    }


def _send(api: Api, source: Path, claim: str, path: str) -> dict[str, Any]:
    if not source.exists():
        raise UsageError(f"{source} is not there")
    into = path.endswith("/") or path in (".", "..")
    own = source.resolve().name
    folder, name = (path, own) if into else (posixpath.dirname(path) or ".", None)
    packer = _Packer(source, name or posixpath.basename(path))
    connection = api.connection(_PATIENCE_S)
    try:
        # Refused before it was all sent: the answer says why.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(
                "PUT",
                url("claims", claim, "files", path=folder),
                packer.pieces(),
                {"Content-Type": "application/x-tar", **api.endpoint.headers},
                encode_chunked=True,
            )
        answer = connection.getresponse()
        status, text = answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise BackendError(f"the copy of {source} broke off: {error}") from error
    finally:
        connection.close()
        packer.stop()
    if status >= 400:
        raise error_of(status, text)
    if packer.trouble is not None:
        raise UsageError(f"{source}: {packer.trouble}") from packer.trouble
    return {
        "claim_id": claim,
        "target": f"{claim}:{posixpath.join(folder, packer.name)}",
        "files": packer.files,
        "bytes": packer.bytes,
        "left_out": [],
    }


class _Packer:
    """A tar stream of a file or folder, made by a thread as fast as it is taken."""

    def __init__(self, source: Path, name: str) -> None:
        self._source = source
        self.name = name
        self.files = 0
        self.bytes = 0
        self.trouble: OSError | None = None
        self._out, self._into = os.pipe()
        self._thread = threading.Thread(target=self._pack, daemon=True)

    def pieces(self) -> Iterator[bytes]:
        """The archive, piece by piece. Raises what reading the source raises."""
        self._thread.start()
        while piece := os.read(self._out, _PIECE):
            yield piece
        self._thread.join()
        if self.trouble is not None:
            raise UsageError(f"{self._source}: {self.trouble}")

    def stop(self) -> None:
        """Let go of everything, whoever still packs."""
        os.close(self._out)
        if self._thread.is_alive():
            self._thread.join()

    def _pack(self) -> None:
        try:
            with (
                os.fdopen(self._into, "wb") as sink,
                tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as archive,
            ):
                archive.add(self._source.resolve(), self.name, filter=self._counted)
        except BrokenPipeError:
            return  # nobody wants more of it
        except OSError as error:
            self.trouble = error

    def _counted(self, entry: tarfile.TarInfo) -> tarfile.TarInfo:
        if entry.isreg():
            self.files += 1
            self.bytes += entry.size
        # Whose it is here means nothing there.
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry
