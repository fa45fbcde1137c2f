"""The API's tokens: made, listed, revoked, and found again by what a caller sends.

They stand in ``tokens.json`` of the state folder, hashed, for its owner only. The API looks at the
file's stamp with every request, so a change counts from the next one on. Standard library only.
"""

from __future__ import annotations

import fcntl
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from greenroom.core.access import ALL_POOLS, Grant, Scope, digest, token_text
from greenroom.core.errors import BackendError, ConflictError, NotFoundError, UsageError
from greenroom.core.errors import UnauthorizedError as Unauthorized
from greenroom.core.names import check_pool_name
from greenroom.core.paths import StatePaths

DEFAULT_RATE = 50.0
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}", re.ASCII)
_NOBODY = digest("")


@dataclass(frozen=True)
class TokenRecord:
    """One token. Times are epoch seconds, ``expires_at`` 0 is never; ``rate`` requests a second."""

    name: str
    ident: str
    digest: str
    pools: tuple[str, ...]
    scope: Scope
    created_at: float
    expires_at: float = 0.0
    rate: float = DEFAULT_RATE

    @property
    def grant(self) -> Grant:
        return Grant(self.name, frozenset(self.pools), self.scope)


@dataclass(frozen=True)
class Wanted:
    """What a new token should be."""

    name: str
    pools: tuple[str, ...]
    scope: Scope
    expires_at: float = 0.0
    rate: float = DEFAULT_RATE


def create(paths: StatePaths, wanted: Wanted, now: float) -> tuple[TokenRecord, str]:
    """Make a token; its record, and its text, which is not kept anywhere.

    Raises UsageError, ConflictError when the name is taken, OSError.
    """
    if not _NAME.fullmatch(wanted.name):
        raise UsageError(
            f"{wanted.name!r} cannot name a token: use lower-case letters, digits and . _ -, 40 at "
            "most, starting with a letter or digit"
        )
    if not wanted.pools:
        raise UsageError("a token is for pools: name them with --pool, or all with --pool '*'")
    for pool in wanted.pools:
        if pool != ALL_POOLS:
            check_pool_name(pool)
    if not 0 < wanted.rate <= 1_000_000:
        raise UsageError(f"the rate {wanted.rate:g} is not a number of requests a second above 0")
    secret = secrets.token_hex(32)
    record = TokenRecord(
        **{**asdict(wanted), "pools": tuple(dict.fromkeys(wanted.pools))},
        ident=secrets.token_hex(5),
        digest=digest(secret),
        created_at=now,
    )
    with _changing(paths) as records:
        if any(each.name == wanted.name for each in records):
            raise ConflictError(f"there is a token {wanted.name} already: revoke it first")
        records.append(record)
    return record, token_text(record.ident, secret)


def listing(paths: StatePaths) -> list[TokenRecord]:
    """Every token, oldest first. Raises BackendError."""
    try:
        return _parsed(paths, paths.tokens.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BackendError(f"{paths.tokens} cannot be read: {error.strerror}") from error


def revoke(paths: StatePaths, name: str) -> None:
    """End a token. Raises NotFoundError."""
    with _changing(paths) as records:
        left = [each for each in records if each.name != name]
        if len(left) == len(records):
            raise NotFoundError(f"there is no token {name}")
        records[:] = left


class TokenBook:
    """The tokens as the API asks for them; read anew whenever the file has changed."""

    def __init__(self, paths: StatePaths) -> None:
        self._paths = paths
        self._stamp: tuple[int, int, int] | None = None
        self._by_ident: dict[str, TokenRecord] = {}

    def find(self, ident: str, secret: str, now: float) -> TokenRecord:
        """The live token with this name and secret. Raises UnauthorizedError, BackendError."""
        self._refresh()
        record = self._by_ident.get(ident)
        # Compared in any case, in constant time: how long it takes tells nothing.
        proved = hmac.compare_digest(record.digest if record else _NOBODY, digest(secret))
        if record is None or not proved:
            raise Unauthorized("this token is unknown or revoked")
        if record.expires_at and record.expires_at <= now:
            raise Unauthorized(f"token {record.name} has expired")
        return record

    def has(self, record: TokenRecord, now: float) -> bool:
        """Whether a token that was found is still good. Raises BackendError."""
        self._refresh()
        expired = record.expires_at and record.expires_at <= now
        return self._by_ident.get(record.ident) == record and not expired

    def _refresh(self) -> None:
        try:
            seen = self._paths.tokens.stat()
        except FileNotFoundError:
            self._stamp, self._by_ident = None, {}
            return
        stamp = (seen.st_mtime_ns, seen.st_ino, seen.st_size)
        if stamp != self._stamp:
            self._by_ident = {each.ident: each for each in listing(self._paths)}
            self._stamp = stamp


def _parsed(paths: StatePaths, raw: bytes) -> list[TokenRecord]:
    known = TokenRecord.__dataclass_fields__.keys()
    try:
        found: list[dict[str, Any]] = json.loads(raw)
        return [
            TokenRecord(
                **{
                    **{key: value for key, value in each.items() if key in known},
                    "pools": tuple(each["pools"]),
                    "scope": Scope(each["scope"]),
                }
            )
            for each in found
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackendError(f"{paths.tokens} is broken ({error!r}): restore or remove it") from error


@contextmanager
def _changing(paths: StatePaths) -> Iterator[list[TokenRecord]]:
    """The records, to change in place; written back as one step when the block ends well."""
    how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(paths.root / ".tokens.lock", how, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        records = listing(paths)
        yield records
        fresh = paths.root / f".tokens.{secrets.token_hex(4)}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "w") as stream:
                json.dump([asdict(each) for each in records], stream, indent=1)
            fresh.replace(paths.tokens)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    finally:
        os.close(lock)
