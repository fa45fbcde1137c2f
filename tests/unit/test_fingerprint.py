"""Fingerprints change with everything that went in, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.core.fingerprint import (
    DependencyInputs,
    dependency_fingerprint,
    snapshot_fingerprint,
)

BASE: dict[str, Any] = {
    "files": {"uv.lock": "a" * 40},
    "base_image_id": "sha256:1",
    "architecture": "x86_64",
    "user": "agent",
    "environment": {"A": "1"},
    "ca_bundle": "",
    "system": ("apt-get install x",),
    "install": ("uv sync",),
}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("files", {"uv.lock": "b" * 40}),
        ("files", {"uv.lock": "a" * 40, "more": "c"}),
        ("base_image_id", "sha256:2"),
        ("architecture", "aarch64"),
        ("user", "root"),
        ("environment", {"A": "2"}),
        ("ca_bundle", "x"),
        ("system", ()),
        ("install", ("uv sync", "")),
    ],
)
def test_every_input_counts(key: str, value: object) -> None:
    changed = DependencyInputs.model_validate({**BASE, key: value})
    assert dependency_fingerprint(changed) != dependency_fingerprint(DependencyInputs(**BASE))


@given(st.permutations(["uv.lock", "package.json", "x"]))
def test_the_order_of_files_does_not_count(order: list[str]) -> None:
    def of(names: list[str]) -> str:
        return dependency_fingerprint(DependencyInputs(**{**BASE, "files": {n: n for n in names}}))

    assert of(order) == of(sorted(order))


lines = st.lists(st.text(max_size=4), max_size=3).map(tuple)


@given(lines, lines, lines, lines)
def test_lines_do_not_run_into_each_other(
    a: tuple[str, ...], b: tuple[str, ...], c: tuple[str, ...], d: tuple[str, ...]
) -> None:
    same = snapshot_fingerprint("d", "c", a, b) == snapshot_fingerprint("d", "c", c, d)
    assert same == ((a, b) == (c, d))


def test_a_fingerprint_is_short_and_stable() -> None:
    assert snapshot_fingerprint("d", "c", (), ()) == snapshot_fingerprint("d", "c", (), ())
    assert len(snapshot_fingerprint("d", "c", (), ())) == 20
