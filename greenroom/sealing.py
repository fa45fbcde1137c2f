"""Sealed values: the cryptography, libsodium's sealed boxes (X25519, XSalsa20, Poly1305).

Whoever has a pool's public key can seal a value for it; only its host can open it. The library is
imported where it is used, because quick commands must start quickly.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from greenroom.core import sealed
from greenroom.core.errors import SecretError, UsageError
from greenroom.core.sealed import Content, Use

_PUBLIC = "grk1."


@dataclass(frozen=True)
class PublicKey:
    """The public half of a pool's key pair; ``text`` is how it is passed on."""

    raw: bytes

    @property
    def text(self) -> str:
        return _PUBLIC + _encoded(self.raw)

    @property
    def ident(self) -> str:
        """What a sealed value names it by."""
        return hashlib.sha256(self.raw).hexdigest()[:12]

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The inverse of ``text``. Raises UsageError."""
        try:
            raw = _decoded(text.strip().removeprefix(_PUBLIC))
        except binascii.Error:
            raw = b""
        if not text.strip().startswith(_PUBLIC) or len(raw) != 32:
            raise UsageError("this is not a pool's public key: it starts with grk1.")
        return cls(raw)

    def seal(self, content: Content) -> str:
        """A sealed value. Two of the same content differ."""
        from nacl import public  # noqa: PLC0415 - see the module

        box = public.SealedBox(public.PublicKey(self.raw)).encrypt(
            content.model_dump_json().encode()
        )
        return sealed.write(self.ident, _encoded(box))


@dataclass(frozen=True)
class PrivateKey:
    """The half that stays on the host."""

    raw: bytes

    @classmethod
    def new(cls) -> PrivateKey:
        from nacl.public import PrivateKey as Key  # noqa: PLC0415 - see the module

        return cls(bytes(Key.generate()))

    @property
    def public(self) -> PublicKey:
        from nacl.public import PrivateKey as Key  # noqa: PLC0415 - see the module

        return PublicKey(bytes(Key(self.raw).public_key))

    def open(self, text: str, use: Use, now: float) -> Content:
        """What is in a sealed value. Raises SecretError, which says nothing of the value."""
        from nacl import public  # noqa: PLC0415 - see the module
        from nacl.exceptions import CryptoError  # noqa: PLC0415 - see the module

        ident, box = sealed.read(use.name, text)
        if ident != self.public.ident:
            raise SecretError(
                f"the sealed value of {use.name} is for another key than that of pool {use.pool}: "
                "seal it anew"
            )
        try:
            plain = public.SealedBox(public.PrivateKey(self.raw)).decrypt(_decoded(box))
        except (CryptoError, binascii.Error, ValueError):
            raise SecretError(f"the sealed value of {use.name} was changed on its way") from None
        return sealed.opened(plain, use, now)


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
