"""``greenroom apply``: pool files become pools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from greenroom.cli.http_client import Api, open_api
from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit, say
from greenroom.cli.settling import settle
from greenroom.core.config import PoolConfig
from greenroom.poolfile import load_pool_file


@click.command("apply")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--wait", is_flag=True, help="Wait until the pools are at their target.")
@click.option("--within", type=SPAN, default=3600.0, show_default="1h", help="The longest wait.")
@json_option
def command(files: tuple[Path, ...], wait: bool, within: float, as_json: bool) -> None:  # noqa: FBT001
    """Make or change pools from FILES; shows what changes, and old containers are replaced."""
    configs = [load_pool_file(path) for path in files]
    api = open_api()
    replies = [apply_config(api, config) for config in configs]
    if not as_json:
        for reply in replies:
            print(_sentence(reply))
    if wait:
        settle(api, [config.name for config in configs], within)
    if as_json:
        emit(replies)


def apply_config(api: Api, config: PoolConfig, *, resume: bool = False) -> dict[str, Any]:
    """Give one pool its file; ``pool``, ``created`` and ``changed``."""
    body = {"config": config.model_dump(mode="json"), "resume_from_down": resume}
    return {"pool": config.name, **api.put("pools", config.name, body=body)}


def _sentence(reply: dict[str, Any]) -> str:
    if reply["created"]:
        say(f"follow it with `greenroom status {reply['pool']} --watch`")
        return f"{reply['pool']} created"
    if not reply["changed"]:
        return f"{reply['pool']} unchanged"
    return "\n".join([f"{reply['pool']} changed:", *(f"  {line}" for line in reply["changed"])])
