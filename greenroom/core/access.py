"""Who may do what over the API: scopes, grants, the form of a token, and its share of requests."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from greenroom.core.errors import ForbiddenError, UnauthorizedError

ALL_POOLS = "*"
_TOKEN = re.compile(r"grt_([0-9a-f]{10})_([0-9a-f]{64})", re.ASCII)
_BEARER = re.compile(r"bearer +(\S+) *", re.ASCII | re.IGNORECASE)


class Scope(StrEnum):
    """Each contains those before it."""

    READ = "read"
    CLAIM = "claim"
    ADMIN = "admin"

    def contains(self, other: Scope) -> bool:
        """Whether whoever has this may do what ``other`` may."""
        order = tuple(Scope)
        return order.index(other) <= order.index(self)


@dataclass(frozen=True)
class Grant:
    """What one caller may do. ``pools`` may hold ``*``: all of them, later ones too."""

    name: str
    pools: frozenset[str]
    scope: Scope

    @property
    def all_pools(self) -> bool:
        return ALL_POOLS in self.pools

    def sees(self, pool: str) -> bool:
        """Whether the caller may know anything of a pool."""
        return self.all_pools or pool in self.pools

    def check_scope(self, needed: Scope) -> None:
        """Raises ForbiddenError."""
        if not self.scope.contains(needed):
            raise ForbiddenError(
                f"token {self.name} has scope {self.scope}, this needs {needed}", needs=str(needed)
            )

    def check_pool(self, pool: str) -> None:
        """Raises ForbiddenError."""
        if not self.sees(pool):
            raise ForbiddenError(f"token {self.name} is not for pool {pool[:40]}")


TRUSTED = Grant("", frozenset([ALL_POOLS]), Scope.ADMIN)
"""Whoever can open the Unix socket: the install's owner."""

NOBODY = Grant("", frozenset(), Scope.READ)
"""Whoever asks for what needs no token."""


def token_text(ident: str, secret: str) -> str:
    """The token of 10 hex digits that name it and 64 that prove it."""
    return f"grt_{ident}_{secret}"


def parse_bearer(header: str | None) -> tuple[str, str]:
    """Name and secret from an ``Authorization`` header. Raises UnauthorizedError."""
    if not header:
        raise UnauthorizedError("no token: send `Authorization: Bearer TOKEN`")
    bearer = _BEARER.fullmatch(header)
    if not bearer:
        raise UnauthorizedError("the Authorization header is not `Bearer TOKEN`")
    token = _TOKEN.fullmatch(bearer[1])
    if not token:
        raise UnauthorizedError("this is not a Greenroom token")
    return token[1], token[2]


def digest(secret: str) -> str:
    """What is kept of a secret.

    A plain SHA-256 is right here: the secret is 256 random bits, so there is nothing to guess that
    a slow or salted hash would make harder, and each request pays for the hash.
    """
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True)
class Bucket:
    """A token bucket: ``level`` requests were left at ``at`` (seconds of any steady clock)."""

    level: float
    at: float


def take(bucket: Bucket | None, now: float, *, rate: float, burst: float) -> tuple[Bucket, float]:
    """Take one request out; the bucket then, and 0 or the seconds until there is one."""
    known = bucket or Bucket(burst, now)
    level = min(burst, known.level + max(0.0, now - known.at) * rate)
    if level >= 1:
        return Bucket(level - 1, now), 0.0
    return Bucket(level, now), (1 - level) / rate
