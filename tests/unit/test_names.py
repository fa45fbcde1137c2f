"""Names: what may be one, that they do not collide, and that they sort by time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.core import names
from greenroom.core.errors import UsageError


@pytest.mark.parametrize("name", ["a", "api", "api-2", "a" * 40])
def test_pool_names_that_are_right(name: str) -> None:
    assert names.check_pool_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "2a", "-a", "a-", "a_b", "a/b", "a" * 41, "a\n", "ä"])
def test_pool_names_that_are_wrong(name: str) -> None:
    with pytest.raises(UsageError):
        names.check_pool_name(name)


@given(st.text(max_size=110))
def test_a_claim_id_that_passes_is_a_plain_file_name(claim: str) -> None:
    try:
        names.check_claim_id(claim)
    except UsageError:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@=+-]*", claim)
    assert len(claim) <= 100


@given(st.floats(0, 2e9), st.floats(0, 2e9), st.integers(0, 2**80 - 1), st.integers(0, 2**80 - 1))
def test_ulids_sort_by_time_and_differ(one: float, two: float, x: int, y: int) -> None:
    first, second = names.ulid(one, x), names.ulid(two, y)
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", first)
    if int(one * 1000) < int(two * 1000):
        assert first < second
    if (int(one * 1000), x) != (int(two * 1000), y):
        assert first != second


def test_a_mirror_is_one_per_url_and_a_plain_file_name() -> None:
    urls = ["git@git.example.com:a/b.git", "https://git.example.com/a/b.git", "/srv/../b", "..", ""]
    keys = [names.mirror_key(url) for url in urls]
    assert len(set(keys)) == len(urls)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,45}", key) for key in keys)


def test_docker_takes_the_names() -> None:
    made = names.object_name("0123456789abcdef", "slot", names.ulid(1.7e9, 5))
    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", made)
    tag = names.image_tag("0123456789abcdef", "api", "f" * 20)
    assert re.fullmatch(r"[a-z0-9/-]+:[a-z0-9]{12}", tag)


def test_workflow_ids_lead_back_to_what_they_name() -> None:
    assert names.container_workflow_id("api", "K") == "greenroom/container/api/K"
    assert names.wait_workflow_id("api", "c") == "greenroom/wait/api/c"
    assert names.snapshot_workflow_id("api", "f") == "greenroom/snapshot/api/f"
    assert names.keeper_id("api") == "greenroom/pool/api"
