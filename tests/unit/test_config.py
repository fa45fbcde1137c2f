"""The configuration's model: units, bounds, differences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.core.config import PoolConfig, changes, duration, size_in_bytes
from tests.builders import make_config

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(0, 10_000), st.sampled_from(sorted(UNITS)))
def test_times_with_units(number: int, unit: str) -> None:
    assert duration(f"{number}{unit}") == number * UNITS[unit]


@pytest.mark.parametrize("text", ["", "5", "5 minutes", "m", "-5m", "5mm", "1h30m", "nan s"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="with its unit"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("64k", 65536), ("512m", 512 * 1024**2), ("4g", 4 * 1024**3), ("4GiB", 4 * 1024**3)],
)
def test_sizes_with_units(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "4", "4 gigabytes", "g", "-4g", "4t"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="with its unit"):
        size_in_bytes(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": {"min": 3, "max": 2}},
        {"size": {"min": 1001}},
        {"lease": {"ttl": "2h", "max_ttl": "1h"}},
        {"lease": {"ttl": float("nan")}},
        {"lease": {"heartbeat": 0.5}},
        {"git": {"name": "a <b>"}},
        {"git": {"email": "a\nb"}},
        {"saved": {"keep": "1s"}},
        {"limits": {"cpus": float("inf")}},
        {"ref": "-x"},
        {"ref": "a b"},
        {"repo": ""},
        {"repo": "--upload-pack=x"},
        {"name": "Api"},
        {"nmae": "x"},
    ],
)
def test_contradictions_and_unknown_keys_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make_config(**wrong)


def test_max_grows_with_min_when_it_is_not_written() -> None:
    assert make_config(size={"min": 20}).size.max == 40
    assert make_config(size={"min": 1}).size.max == 10


def test_a_pool_survives_json() -> None:
    config = make_config(
        install=["a"], env={"A": "b"}, lease={"ttl": "5m"}, limits={"memory": "1g"}
    )
    assert PoolConfig.model_validate_json(config.model_dump_json()) == config


def test_differences_are_listed_key_by_key() -> None:
    old = make_config(env={"A": "1"})
    new = make_config(env={"A": "2"}, size={"min": 3, "max": 10}, build=["make"])
    assert changes(old, new) == [
        "build: [] → ['make']",
        "env: {'A': '1'} → {'A': '2'}",
        "size.min: 2 → 3",
    ]
    assert changes(old, old) == []


@pytest.mark.parametrize(
    "repo", ["https://me:pw@git.example/a.git", "ssh://git:pw@git.example/a", "https://:t@h/a"]
)
def test_a_password_does_not_belong_into_a_pool_file(repo: str) -> None:
    with pytest.raises(ValueError, match="leave the password out"):
        make_config(repo=repo)


@pytest.mark.parametrize(
    "repo",
    [
        "git@git.example:acme/api.git",
        "ssh://git@git.example:2222/a",
        "/srv/a:b@c",
        "https://h:8/a@b",
    ],
)
def test_an_address_without_a_password_is_taken(repo: str) -> None:
    assert make_config(repo=repo).repo == repo
