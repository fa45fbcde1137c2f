"""What stands inside and around a sealed value: formats and checks, no cryptography.

A sealed value is ``grs1.KEY.BOX``: KEY says which key it is for, BOX is a libsodium sealed box
(base64url) around a ``Content`` as JSON. The content names the pool and the variable, so that a
value sealed for one cannot be used for another.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, ValidationError

from greenroom.core.errors import SecretError, UsageError

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
CLAIM_BYTES = 16 * 1024
"""Bytes of all sealed values of one claim, at most."""
HOST_SECRETS = 32
_SEALED = re.compile(r"grs1\.([0-9a-f]{12})\.([A-Za-z0-9_-]+)")


class Content(BaseModel):
    """What is sealed. ``claim_id`` empty: any claim; ``expires_at`` 0: never (epoch seconds).

    ``secret`` False: a plain variable, which is no file and is not taken out of outputs' tails.
    """

    model_config = ConfigDict(frozen=True)

    pool: str
    name: str
    value: str
    secret: bool = True
    claim_id: str = ""
    expires_at: float = 0.0


class Use(BaseModel):
    """Where a sealed value was found: it must have been sealed for exactly that."""

    model_config = ConfigDict(frozen=True)

    pool: str
    name: str
    claim_id: str


def write(key: str, box: str) -> str:
    """The text of a sealed value."""
    return f"grs1.{key}.{box}"


def read(name: str, text: str) -> tuple[str, str]:
    """The key's id and the box of a sealed value. Raises SecretError."""
    found = _SEALED.fullmatch(text)
    if found is None:
        raise SecretError(
            f"the value of {name} is not sealed; `greenroom seal POOL {name}` makes one"
        )
    return found[1], found[2]


def opened(plain: bytes, use: Use, now: float) -> Content:
    """The content, when it was sealed for this use and is not too old. Raises SecretError."""
    try:
        content = Content.model_validate_json(plain)
    except ValidationError:
        raise SecretError(f"the sealed value of {use.name} holds nothing that was sealed") from None
    for what, meant, here in (
        ("pool", content.pool, use.pool),
        ("name", content.name, use.name),
        ("claim", content.claim_id or use.claim_id, use.claim_id),
    ):
        if meant != here:
            raise SecretError(
                f"the sealed value of {use.name} is for another {what} than {here}: seal it anew"
            )
    if content.expires_at and content.expires_at <= now:
        raise SecretError(f"the sealed value of {use.name} has expired: seal it anew")
    return content


def check(sealed: dict[str, str], host_secrets: tuple[str, ...]) -> None:
    """Refuse what cannot be right whatever the key says. Raises UsageError, SecretError."""
    for name in (*sealed, *host_secrets):
        if not VARIABLE.fullmatch(name):
            raise UsageError(f"{name[:80]!r} cannot name a secret; use letters, digits and _")
    for name, text in sealed.items():
        read(name, text)
    if sum(len(text) for text in sealed.values()) > CLAIM_BYTES:
        raise UsageError(f"sealed values take more than {CLAIM_BYTES} bytes in one claim")
    if len(host_secrets) > HOST_SECRETS:
        raise UsageError(f"more than {HOST_SECRETS} host secrets in one claim")
