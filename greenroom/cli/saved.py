"""``greenroom saved``: the work that ended claims left."""

from __future__ import annotations

import http.client
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import click

from greenroom.cli.applying import Work, apply_work, unpack
from greenroom.cli.http_client import PATIENCE_S, Api, open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import counted, emit, fields, plain, say, since, size, table
from greenroom.core.errors import BackendError, NotFoundError, UsageError
from greenroom.core.wire import error_of, url

_pool_option = click.option("--pool", help="Its pool, when several have had this claim id.")


@click.group("saved", invoke_without_command=True)
@click.pass_context
@json_option
def command(context: click.Context, as_json: bool) -> None:  # noqa: FBT001
    """The work of ended claims: list it, or one of the commands below."""
    if context.invoked_subcommand is None:
        _list(as_json=as_json)


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:  # noqa: FBT001
    """List saved work, newest first."""
    _list(as_json=as_json)


@command.command("show")
@click.argument("claim")
@_pool_option
@json_option
def show(claim: str, pool: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Show what CLAIM left: commits, changed files, ignored files, how it ended."""
    api = open_api()
    work = _find(api, claim, pool)
    if work["state"] != "unsaved":
        work = api.get("saved", work["pool"], claim)
    if as_json:
        emit(work)
        return
    fields(
        [
            *((name, work.get(name)) for name in ("claim_id", "pool", "state", "reason")),
            ("ended", f"{since(work['saved_at'])} ago"),
            ("base", work.get("base")),
            ("detail", work.get("detail")),
            ("path", work.get("path")),
            ("files", " ".join(work.get("files", ()))),
            ("size", size(work["size_bytes"]) if "size_bytes" in work else ""),
        ]
    )
    _lines("commit", work.get("commits", 0), work.get("commit_lines", []))
    _lines("changed file", work.get("changed", 0), work.get("changed_files", []))
    ignored = work.get("ignored_files", [])
    _lines("ignored file or folder, not saved:", len(ignored), ignored)


@command.command("apply")
@click.argument("claim")
@click.argument("directory", required=False, type=click.Path(path_type=Path), default=Path())
@_pool_option
@json_option
def apply_command(
    claim: str,
    directory: Path,
    pool: str | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Bring the work of CLAIM into the clone in DIRECTORY (default: here).

    Its commits become refs below refs/greenroom/CLAIM, its changes those of the work tree.
    """
    api = open_api()
    found = _find(api, claim, pool)
    _refuse_unsaved(found)
    with tempfile.TemporaryDirectory(prefix="greenroom-") as folder:
        archive = Path(folder) / "work.tar.gz"
        _download(api, found, archive)
        unpack(archive, Path(folder))
        done = apply_work(Work(claim, str(found.get("base", "")), Path(folder)), directory)
    if as_json:
        emit({"claim_id": claim, "refs": done.refs, "changed": done.changed})
        return
    what = "applied" if done.changed else "has no changes"
    print(f"{claim} {what}, {counted(len(done.refs), 'ref')} fetched")
    for ref in done.refs:
        print(f"  git log {ref}")


@command.command("export")
@click.argument("claim")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_pool_option
@json_option
def export(claim: str, file: Path, pool: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Write everything that was kept of CLAIM to FILE (.tar.gz)."""
    api = open_api()
    found = _find(api, claim, pool)
    _refuse_unsaved(found)
    _download(api, found, file)
    if as_json:
        emit({"claim_id": claim, "file": str(file.absolute()), "size_bytes": file.stat().st_size})
        return
    print(f"{claim} is in {file} ({size(file.stat().st_size)})")


@command.command("delete")
@click.argument("claim")
@_pool_option
@json_option
def delete(claim: str, pool: str | None, as_json: bool) -> None:  # noqa: FBT001
    """Delete what CLAIM left."""
    api = open_api()
    found = _find(api, claim, pool)
    _refuse_unsaved(found)
    api.delete("saved", found["pool"], claim)
    if as_json:
        emit({"claim_id": claim, "deleted": True})
        return
    print(f"{claim}: its saved work is deleted")


def _list(*, as_json: bool) -> None:
    found = open_api().get("saved")
    if as_json:
        emit(found)
        return
    if not found:
        say("no saved work")
    table(
        [
            (
                work["claim_id"],
                work["pool"],
                work.get("state", "-"),
                work.get("commits", 0),
                work.get("changed", 0),
                since(work["saved_at"]),
                work.get("path", ""),
            )
            for work in found
        ],
        ("claim", "pool", "state", "commits", "changed", "age", "path"),
    )


def _find(api: Api, claim: str, pool: str | None) -> dict[str, Any]:
    """The newest record of a claim. Raises NotFoundError, UsageError (in several pools)."""
    found = [work for work in api.get("saved", claim=claim) if pool in {None, work["pool"]}]
    if not found:
        raise NotFoundError(f"nothing is saved of claim {claim}")
    pools = sorted({work["pool"] for work in found})
    if len(pools) > 1:
        raise UsageError(f"claim {claim} left work in {', '.join(pools)}: say which with --pool")
    newest: dict[str, Any] = found[0]
    return newest


def _refuse_unsaved(found: dict[str, Any]) -> None:
    if found["state"] == "unsaved":
        where = f"{found['docker_id'][:12]}:{found['workdir']}"
        raise UsageError(
            f"the work of {found['claim_id']} could not be saved ({found['detail']}); it is in "
            f"the stopped container: docker cp {where} DIRECTORY"
        )


def _download(api: Api, found: dict[str, Any], file: Path) -> None:
    """Write the export beside ``file`` first: no half of one ever has its name."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    path = url("saved", found["pool"], found["claim_id"], "export")
    connection = api.connection(PATIENCE_S)
    try:
        connection.request("GET", path, headers=api.endpoint.headers)
        answer = connection.getresponse()
        if answer.status >= 400:
            raise error_of(answer.status, answer.read())
        with partial.open("xb") as stream:
            shutil.copyfileobj(answer, stream)
        partial.replace(file)
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise BackendError(f"the export of {found['claim_id']} broke off: {error}") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    finally:
        connection.close()
        partial.unlink(missing_ok=True)


def _lines(thing: str, count: int, lines: list[str]) -> None:
    if not count:
        return
    print(f"{counted(count, thing) if not thing.endswith(':') else f'{count} {thing}'}")
    for line in lines:
        print(f"  {plain(line)}")
