"""``greenroom up``: from a bare machine to pools that are ready."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from activities.context import open_context
from activities.seccomp import ensure_seccomp
from greenroom.cli.apply import apply_config
from greenroom.cli.http_client import Api
from greenroom.cli.options import SPAN, json_option
from greenroom.cli.output import emit, progress, say
from greenroom.cli.settling import settle
from greenroom.core.config import PoolConfig
from greenroom.core.errors import GreenroomError
from greenroom.core.paths import StatePaths
from greenroom.poolfile import load_pool_file
from greenroom.services.progress import Report
from greenroom.services.settings import Settings, state_paths
from greenroom.services.up import bring_up, checkout


@click.command("up")
@click.option(
    "--pool",
    "pool_file",
    type=click.Path(path_type=Path),
    help="A pool file; without one: the pools of last time, at first this repository's own.",
)
@click.option("--no-wait", is_flag=True, help="Do not wait until the pools are ready.")
@click.option("--within", type=SPAN, default=3600.0, show_default="1h", help="The longest wait.")
@click.option(
    "--listen",
    default="",
    metavar="ADDRESS:PORT|off",
    help="Serve the API there too, from now on; not on loopback: only with TLS.",
)
@click.option("--tls-cert", default="", metavar="FILE", help="Its certificate, with chain.")
@click.option("--tls-key", default="", metavar="FILE", help="Its key.")
@json_option
def command(  # noqa: PLR0913, PLR0917 - click's
    pool_file: Path | None,
    no_wait: bool,  # noqa: FBT001
    within: float,
    listen: str,
    tls_cert: str,
    tls_key: str,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Get Docker, Temporal, the services and a pool going; safe to repeat at any time."""
    paths = state_paths(os.environ)
    wanted = wanted_pools(paths, pool_file)
    asked = {"LISTEN": listen, "TLS_CERT": tls_cert, "TLS_KEY": tls_key}
    given = {f"GREENROOM_{name}": value for name, value in asked.items() if value}
    settings = bring_up({**os.environ, **given}, progress, _prepare)
    api = Api(settings.paths)
    for config in wanted:
        reply = apply_config(api, config, resume=True)
        what = "created" if reply["created"] else "changed" if reply["changed"] else "unchanged"
        progress("pool", f"{config.name} {what}")
    names = [config.name for config in wanted]
    statuses = [api.get("pools", name) for name in names] if no_wait else _ready(api, names, within)
    if as_json:
        emit(
            {
                "state": str(settings.paths.root),
                "ui": settings.ui_url,
                "api": settings.listen.url if settings.listen else "",
                "pools": statuses,
            }
        )
        return
    _tell(settings, statuses)


def wanted_pools(paths: StatePaths, pool_file: Path | None) -> list[PoolConfig]:
    """The pools of last time, and the given one, or at first the default. Raises PoolFileError.

    The given file, and the default one where its pool is kept, replace what is kept.
    """
    kept = {
        config.name: config for config in map(load_pool_file, sorted(paths.pools.glob("*.yaml")))
    }
    if pool_file is not None:
        given = load_pool_file(pool_file)
        return list({**kept, given.name: given}.values())
    default = _default_pool()
    if default is not None and (not kept or default.name in kept):
        kept[default.name] = default
    return list(kept.values())


def _default_pool() -> PoolConfig | None:
    root = checkout()
    path = Path(root) / "deploy" / "pools" / "greenroom.yaml"
    return load_pool_file(path) if root and path.is_file() else None


def _prepare(settings: Settings, report: Report) -> None:
    report("seccomp", "the containers' profile")
    ensure_seccomp(open_context(settings))


def _ready(api: Api, names: list[str], within_s: float) -> list[dict[str, Any]]:
    """Wait for all of them, each on its own: one that fails must not hide the others."""
    statuses, failed = [], None
    for name in names:
        try:
            statuses += settle(api, [name], within_s)
        except GreenroomError as error:
            if failed is not None:
                say(f"greenroom: {failed.message}")
            failed = error
    if failed is not None:
        raise failed
    return statuses


def _tell(settings: Settings, statuses: list[dict[str, Any]]) -> None:
    for status in statuses:
        ready = f"{status['counts']['ready']} of {status['target']} ready"
        print(f"pool {status['pool']}: {ready}, commit {status['commit'][:12] or '-'}")
    if settings.ui_url:
        print(f"Temporal UI: {settings.ui_url}")
    if settings.listen:
        print(f"API: {settings.listen.url} (with a token: `greenroom token create`)")
    name = statuses[0]["pool"] if statuses else "POOL"
    print("next:")
    if not statuses:
        print("  greenroom apply FILE                  make a pool")
    print(f"  greenroom run {name} -- git log -1      one command in a container of its own")
    print(f"  greenroom claim {name}                  a container to work in")
    print("  greenroom status --watch              how the pools are")
