"""Where this install is, who it is, and which services it uses.

The state folder is ``$GREENROOM_STATE``, else ``/var/lib/greenroom`` for root and
``~/.local/state/greenroom`` for others. What ``up`` decided (ports, the Temporal server, the
engine) stands in its ``up.json``; every other command and service reads it from there, so that
all of them agree whatever their own environment says. Standard library only: the CLI's quick
commands import this.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths, state_root
from greenroom.services.listen import Asked, Listen, parse_listen

DEFAULT_NAMESPACE = "greenroom"
DEFAULT_DOCKER_HOST = "unix:///var/run/docker.sock"
_INSTALL_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Decisions:
    """The content of ``up.json``: what ``up`` decided for this install.

    Ports are 0 and ``ui_url`` is empty when the Temporal server is the user's own. ``listen`` is
    empty when the API has its Unix socket only.
    """

    temporal_address: str = "127.0.0.1:7233"
    temporal_namespace: str = DEFAULT_NAMESPACE
    embedded: bool = True
    temporal_profile: str = ""
    temporal_port: int = 0
    ui_port: int = 0
    ui_url: str = ""
    docker_host: str = DEFAULT_DOCKER_HOST
    checkout: str = ""
    version: str = ""
    listen: str = ""
    tls_cert: str = ""
    tls_key: str = ""


@dataclass(frozen=True)
class Settings:
    """One install as every command and service sees it. ``decided`` is empty before ``up``."""

    paths: StatePaths
    install_id: str
    host: str
    decided: Decisions

    @property
    def temporal_address(self) -> str:
        """``host:port`` of the Temporal frontend."""
        return self.decided.temporal_address

    @property
    def temporal_namespace(self) -> str:
        return self.decided.temporal_namespace

    @property
    def embedded(self) -> bool:
        """Whether the Temporal server is a child of our supervisor."""
        return self.decided.embedded

    @property
    def docker_host(self) -> str:
        """The engine's address in the form of ``DOCKER_HOST``; always a Unix socket."""
        return self.decided.docker_host

    @property
    def listen(self) -> Listen | None:
        """Where the API listens beside its Unix socket. Raises UsageError."""
        return parse_listen(Asked(self.decided.listen, self.decided.tls_cert, self.decided.tls_key))

    @property
    def ui_url(self) -> str:
        """The Temporal UI of the embedded server; empty for the user's own."""
        return self.decided.ui_url


def state_paths(environ: Mapping[str, str]) -> StatePaths:
    """The state folder that ``environ`` and the user's id select."""
    root = state_root(environ, root=os.geteuid() == 0, home=Path.home())
    return StatePaths(root.absolute())


def ensure_install_id(paths: StatePaths) -> str:
    """The install's id, 16 hex digits, made on first use. Raises OSError."""
    paths.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = paths.root / f".install_id.{secrets.token_hex(4)}"
    fresh.write_text(secrets.token_hex(8) + "\n")
    fresh.chmod(0o644)
    try:
        os.link(fresh, paths.install_id)  # the first of several at once wins
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    return _read_install_id(paths)


def _read_install_id(paths: StatePaths) -> str:
    try:
        text = paths.install_id.read_text().strip()
    except FileNotFoundError:
        raise UsageError(
            f"there is no Greenroom in {paths.root}: run `make up` (or `greenroom up`), "
            "or name its state folder in GREENROOM_STATE"
        ) from None
    except PermissionError:
        raise UsageError(f"{paths.install_id} cannot be read by this user") from None
    if not _INSTALL_ID.fullmatch(text):
        raise UsageError(f"{paths.install_id} holds {text!r}, not the 16 hex digits of an install")
    return text


def host_name(environ: Mapping[str, str]) -> str:
    """The name of this host in task queues: ``$GREENROOM_HOST``, else the machine's."""
    return environ.get("GREENROOM_HOST") or socket.gethostname()


def read_decisions(paths: StatePaths) -> Decisions | None:
    """What ``up`` decided; None before the first ``up``. Raises UsageError on a broken file."""
    try:
        found: Any = json.loads(paths.up.read_text())
    except FileNotFoundError:
        return None
    except PermissionError:
        raise UsageError(f"{paths.up} cannot be read by this user") from None
    except ValueError as error:
        raise UsageError(f"{paths.up} is not JSON ({error}): remove it and run up") from None
    if not isinstance(found, dict):
        raise UsageError(f"{paths.up} is not a JSON object: remove it and run up")
    known = asdict(Decisions())
    kept: dict[str, Any] = {}
    for key, value in found.items():
        if key not in known:
            continue  # a newer version wrote it; it will again
        if type(value) is not type(known[key]):
            raise UsageError(f"{paths.up}: {key} is {value!r}: remove the file and run up")
        kept[key] = value
    return Decisions(**kept)


def write_decisions(paths: StatePaths, decisions: Decisions) -> None:
    """Replace ``up.json`` as one step. It holds no secret and is readable to all."""
    fresh = paths.root / f".up.{secrets.token_hex(4)}"
    fresh.write_text(json.dumps(asdict(decisions), indent=2, sort_keys=True) + "\n")
    fresh.chmod(0o644)
    fresh.replace(paths.up)


def load_settings(environ: Mapping[str, str]) -> Settings:
    """The install that ``environ`` selects. Raises UsageError when it is missing or broken."""
    paths = state_paths(environ)
    return Settings(
        paths=paths,
        install_id=_read_install_id(paths),
        host=host_name(environ),
        decided=read_decisions(paths) or Decisions(),
    )
