"""Secrets that do not come in the clear: opened with the pool's key, or the host's own by name.

``secrets.yaml`` in the state folder, mode 0600, is the operator's::

    NPM_TOKEN: {env: NPM_TOKEN, pools: [api]}     # a variable of Greenroom's own services
    DEPLOY_KEY: {file: /etc/greenroom/deploy-key}
    DB_PASSWORD: {command: [vault, kv, get, -field=password, db], timeout: 10s}

``pools`` says who may ask; without it every pool may. No value is ever logged or part of an error.
"""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from activities.personal import Personal
from greenroom.core import sealed as formats
from greenroom.core.config import Seconds
from greenroom.core.errors import BackendError, SecretError, UsageError
from greenroom.core.names import check_pool_name
from greenroom.core.paths import StatePaths
from greenroom.core.sealed import Use
from greenroom.sealing import PrivateKey, PublicKey

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """What one claim asks for."""

    pool: str
    claim_id: str
    sealed: dict[str, str] = field(default_factory=dict)
    host_secrets: tuple[str, ...] = ()


class HostSecret(BaseModel):
    """One entry of ``secrets.yaml``: exactly one of ``env``, ``file`` and ``command``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    env: str = ""
    file: str = ""
    command: tuple[str, ...] = ()
    timeout: Seconds = Field(10, gt=0, le=60)
    pools: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> HostSecret:
        if sum(map(bool, (self.env, self.file, self.command))) != 1:
            raise ValueError("write exactly one of env, file and command")
        if self.file and not self.file.startswith("/"):
            raise ValueError("file must be an absolute path")
        return self


def fetch(paths: StatePaths, wanted: Wanted, personal: Personal) -> Personal:
    """``personal`` with what the claim asks for.

    Raises SecretError (does not open, unknown, not allowed), UsageError (``secrets.yaml`` is
    wrong), BackendError (a secret's file or command fails, which may pass).
    """
    formats.check(wanted.sealed, wanted.host_secrets)
    taken = {*personal.env, *personal.secrets}
    for name in (*wanted.sealed, *wanted.host_secrets):
        if name in taken:
            raise UsageError(f"{name} is given twice")
        taken.add(name)
    env, found = dict(personal.env), dict(personal.secrets)
    for name, content in _opened(paths, wanted).items():
        (found if content.secret else env)[name] = content.value
    found |= _of_the_host(paths, wanted)
    return personal.model_copy(update={"env": env, "secrets": found})


def public_key(paths: StatePaths, pool: str) -> PublicKey:
    """The pool's public key; its pair is made on first use. Raises OSError, UsageError."""
    path = paths.pool_key(check_pool_name(pool))
    if not path.exists():
        paths.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f".{pool}.{secrets.token_hex(4)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb") as stream:
                stream.write(PrivateKey.new().raw)
                os.fsync(stream.fileno())
            os.link(fresh, path)  # the first of several at once wins
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return PrivateKey(path.read_bytes()).public


def _opened(paths: StatePaths, wanted: Wanted) -> dict[str, formats.Content]:
    if not wanted.sealed:
        return {}
    try:
        key = PrivateKey(paths.pool_key(check_pool_name(wanted.pool)).read_bytes())
    except FileNotFoundError:
        raise SecretError(
            f"pool {wanted.pool} has no key here: seal with the key that this host gives"
        ) from None
    now = time.time()
    return {
        name: key.open(text, Use(pool=wanted.pool, name=name, claim_id=wanted.claim_id), now)
        for name, text in wanted.sealed.items()
    }


def _of_the_host(paths: StatePaths, wanted: Wanted) -> dict[str, str]:
    if not wanted.host_secrets:
        return {}
    known = read_host_secrets(paths)
    for name in wanted.host_secrets:
        entry = known.get(name)
        if entry is None or (entry.pools is not None and wanted.pool not in entry.pools):
            raise SecretError(
                f"host secret {name} is not there for pool {wanted.pool}: the host's operator adds "
                "it to secrets.yaml, or the pool to its `pools`"
            )
    return {name: _value(name, known[name]) for name in wanted.host_secrets}


def read_host_secrets(paths: StatePaths) -> dict[str, HostSecret]:
    """The operator's file; empty when there is none. Raises UsageError."""
    path = paths.host_secrets
    try:
        with path.open() as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o077:
                raise UsageError(f"{path} can be read by others: chmod 600 {path}")
            told = yaml.safe_load(stream) or {}
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {getattr(error, 'problem', '')}") from None
    if not isinstance(told, dict):
        raise UsageError(f"{path}: write NAME: {{env: …}}, {{file: …}} or {{command: […]}}")
    found = {}
    for name, entry in told.items():
        if not formats.VARIABLE.fullmatch(str(name)):
            raise UsageError(f"{path}: {name!r} cannot name a secret; use letters, digits and _")
        try:
            found[str(name)] = HostSecret.model_validate(entry)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join([str(name), *map(str, first["loc"])])
            raise UsageError(f"{path}: {where}: {first['msg']}") from None
    return found


def _value(name: str, entry: HostSecret) -> str:
    """One secret. Raises BackendError, SecretError; neither tells any of its value."""
    if entry.env:
        if entry.env not in os.environ:
            raise SecretError(
                f"host secret {name}: Greenroom's services have no variable {entry.env}; it must "
                "be set where `greenroom up` starts"
            )
        return os.environ[entry.env]
    raw = _read(name, Path(entry.file)) if entry.file else _said(name, entry)
    if len(raw) > _MOST_BYTES:
        raise SecretError(f"host secret {name} is larger than {_MOST_BYTES} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise SecretError(f"host secret {name} is not UTF-8") from None


def _read(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise BackendError(f"host secret {name}: {path} cannot be read: {error.strerror}") from None


def _said(name: str, entry: HostSecret) -> bytes:
    """A command's output without its last newline. What it says on stderr may hold anything."""
    try:
        done = subprocess.run(
            entry.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=entry.timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"host secret {name}: its command took too long") from None
    except OSError as error:
        raise BackendError(
            f"host secret {name}: its command cannot be run: {error.strerror}"
        ) from None
    if done.returncode != 0:
        raise BackendError(f"host secret {name}: its command failed with {done.returncode}")
    return done.stdout.removesuffix(b"\n")
