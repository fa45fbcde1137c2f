"""Sealed values open for exactly what they were sealed for, and for nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.core.errors import SecretError, UsageError
from greenroom.core.sealed import Content, Use
from greenroom.sealing import PrivateKey, PublicKey

KEY = PrivateKey.new()
CONTENT = Content(pool="api", name="TOKEN", value="the-value", claim_id="c1", expires_at=100)
USE = Use(pool="api", name="TOKEN", claim_id="c1")


@given(st.text())
def test_what_is_sealed_comes_out_whole(value: str) -> None:
    public = PublicKey.parse(KEY.public.text)
    assert (
        KEY.open(public.seal(Content(pool="api", name="TOKEN", value=value)), USE, 0).value == value
    )


@pytest.mark.parametrize(
    ("use", "now", "why"),
    [
        ({"pool": "web"}, 0, "another pool"),
        ({"name": "OTHER"}, 0, "another name"),
        ({"claim_id": "c2"}, 0, "another claim"),
        ({}, 100, "expired"),
    ],
)
def test_another_use_is_refused(use: dict[str, str], now: float, why: str) -> None:
    sealed = KEY.public.seal(CONTENT)
    with pytest.raises(SecretError, match=why) as caught:
        KEY.open(sealed, USE.model_copy(update=use), now)
    assert "the-value" not in caught.value.message


def test_another_key_is_refused_by_name() -> None:
    with pytest.raises(SecretError, match="another key"):
        KEY.open(PrivateKey.new().public.seal(CONTENT), USE, 0)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=63))
def test_a_changed_value_is_refused(at: int, by: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    head, _, box = KEY.public.seal(CONTENT).rpartition(".")
    at %= len(box) - 1  # the last character has bits that stand for nothing
    other = alphabet[(alphabet.index(box[at]) + by) % 64]
    with pytest.raises(SecretError, match="changed on its way"):
        KEY.open(f"{head}.{box[:at]}{other}{box[at + 1 :]}", USE, 0)


@pytest.mark.parametrize("text", ["", "plain", "grs1.0123456789ab.", "grs1.x.AAAA"])
def test_what_is_not_sealed_is_refused_with_how_to_do_it(text: str) -> None:
    with pytest.raises(SecretError, match="greenroom seal POOL TOKEN"):
        KEY.open(text, USE, 0)


@pytest.mark.parametrize("text", ["", "grk1.", "grk1.AAAA", "ssh-ed25519 AAAA"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="grk1"):
        PublicKey.parse(text)
