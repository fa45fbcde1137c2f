"""``greenroom release``: the end of a claim, with its work saved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from greenroom.cli.endpoint import Local
from greenroom.cli.http_client import open_api
from greenroom.cli.options import json_option
from greenroom.cli.output import counted, emit
from greenroom.core.errors import UsageError

_SAVE_S = 16 * 60.0


@click.command("release")
@click.argument("claim")
@click.option("--save", "target", type=click.Path(path_type=Path), help="Copy saved work here.")
@click.option("--discard", is_flag=True, help="Do not save its work.")
@click.option("--no-wait", is_flag=True, help="Do not wait until its work is saved.")
@click.option("--token", type=int, help="Refuse unless this is the live lease's token.")
@json_option
def command(  # noqa: PLR0913, PLR0917 - click's
    claim: str,
    target: Path | None,
    discard: bool,  # noqa: FBT001
    no_wait: bool,  # noqa: FBT001
    token: int | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """End CLAIM; what changed in its work tree is saved."""
    if target is not None and (discard or no_wait):
        raise UsageError("--save goes neither with --discard nor with --no-wait")
    api = open_api()
    if target is not None and not isinstance(api.endpoint, Local):
        raise UsageError("--save copies from this machine's state folder; saved work stays there")
    reply = api.delete(
        "claims", claim, timeout_s=_SAVE_S, token=token, save=not discard, wait=not no_wait
    )
    if target is not None:
        reply["copied_to"] = _copy(reply["saved"], target)
    if as_json:
        emit(reply)
        return
    print(_sentence(claim, reply))


def _copy(saved: dict[str, Any], target: Path) -> str:
    """Copy the saved files; returns where to (empty: there was nothing)."""
    if not saved["files"]:
        return ""
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in saved["files"]:
            shutil.copy(Path(saved["path"]) / Path(name).name, target)
    except OSError as error:
        raise UsageError(
            f"released, but the work in {saved['path']} cannot be copied to {target}: {error}"
        ) from error
    return str(target.absolute())


def _sentence(claim: str, reply: dict[str, Any]) -> str:
    saved = reply["saved"]
    if saved is None:
        return f"{claim} is being released"
    if saved["state"] == "clean":
        return f"{claim} released; nothing had changed"
    if saved["state"] == "saved":
        where = reply.get("copied_to") or saved["path"]
        commits, changed = saved["commits"], saved["changed"]
        what = f"{counted(commits, 'commit')}, {counted(changed, 'changed file')}"
        return f"{claim} released; {what} saved in {where}"
    if saved["state"] == "unsaved":
        return f"{claim} released; saving FAILED ({saved['detail']}), its container is kept 24 h"
    return f"{claim} released; its work is discarded"
