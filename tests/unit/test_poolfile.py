"""Pool files: what is read, and that what is wrong is said with its line and its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.core.config import PoolConfig
from greenroom.core.errors import GreenroomError, PlannedError, PoolFileError
from greenroom.poolfile import MAX_BYTES, load_pool_file, parse_pool_file, schema

GOOD = """\
name: api
repo: git@git.example.com:acme/api.git
ref: main
image: greenroom/base
system: [apt-get install -y libpq-dev]
install: [uv sync --locked]
build: [make build]
verify: [make smoke]
lockfiles: [uv.lock]
size: {min: 2, max: 10}
lease: {ttl: 1h}
network: {provision: [python], task: [api.example.com]}
limits: {cpus: 2, memory: 4g, pids: 512}
"""
LEAST = "name: api\nrepo: https://git.example.com/api\n"


def problems(text: str) -> list[str]:
    with pytest.raises(PoolFileError) as caught:
        parse_pool_file(text, "pool.yaml")
    return str(caught.value).splitlines()


def test_the_documented_file_is_read() -> None:
    pool = parse_pool_file(GOOD, "pool.yaml")
    assert pool.name == "api"
    assert pool.install == ("uv sync --locked",)
    assert pool.lease.ttl == 3600
    assert pool.limits.memory == 4 * 1024**3
    assert pool.network.task == ("api.example.com",)


def test_a_password_is_refused_and_not_repeated() -> None:
    (said,) = problems("name: api\nrepo: https://me:hunter2@git.example.com/api\n")
    assert "pool.yaml:2: repo: value 'https://***@git.example.com/api': leave the password" in said


def test_the_least_file_is_read() -> None:
    assert parse_pool_file(LEAST, "pool.yaml").size.min == 2


def test_yaml_is_that_of_version_1_2() -> None:
    pool = parse_pool_file(LEAST + "env: {A: no, B: on, C: 1:30, D: '1', E: 2024-01-01}\n", "p")
    assert pool.env == {"A": "no", "B": "on", "C": "1:30", "D": "1", "E": "2024-01-01"}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("naem: api\n", 3, ["naem", "did you mean name?"]),
        ("size: {mim: 1}\n", 3, ["size.mim", "did you mean min?"]),
        ("size:\n  min: 5\n  max: 2\n", 3, ["size", "max (2) is below min (5)"]),
        ("size:\n  min: true\n", 4, ["size.min", "True", "write a number"]),
        ("size:\n  min: -1\n", 4, ["size.min", "-1", "greater than or equal to 0"]),
        ("size: 3\n", 3, ["size", "3", "keys and values"]),
        ("lease:\n  ttl: 90x\n", 4, ["lease.ttl", "'90x'", "90s, 5m, 1h or 2d"]),
        ("limits:\n  memory: 4 gigabytes\n", 4, ["limits.memory", "512m or 4g"]),
        ("limits:\n  pids: many\n", 4, ["limits.pids", "'many'", "whole number"]),
        ("install: pip install .\n", 3, ["install", "write a list of lines"]),
        ("env: {A: 1}\n", 3, ["env.A", "1", "in quotes"]),
        ("ref: a..b\n", 3, ["ref", "branch, a tag or HEAD"]),
        ("network:\n  task: ['a b']\n", 4, ["network.task", "is not a host name"]),
        ("network:\n  task: ['*.example.com']\n", 4, ["network.task", "planned"]),
        ("trust_host_ca: maybe\n", 3, ["trust_host_ca", "'maybe'", "true or false"]),
        ("name: web\n", 3, ["name", "twice", "line 1"]),
    ],
)
def test_what_is_wrong_is_said_with_line_value_and_remedy(
    text: str, line: int, words: list[str]
) -> None:
    found = problems(LEAST + text)
    assert len(found) == 1
    assert found[0].startswith(f"pool.yaml:{line}: ")
    for word in words:
        assert word in found[0]


def test_every_problem_is_listed_in_the_files_order() -> None:
    found = problems("name: API\nsize: {min: x}\nlimit: {}\n")
    assert [line.split(":")[1] for line in found] == ["1", "1", "2", "3"]
    assert "repo: is missing" in "\n".join(found)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("freshness: {poll: 60s}\n", "freshness"),
        ("services: {}\n", "services"),
        ("build: {dockerfile: Dockerfile}\n", "build"),
        ("size: {target_hit_rate: 0.99}\n", "size.target_hit_rate"),
    ],
)
def test_designed_keys_are_refused_as_planned(text: str, key: str) -> None:
    with pytest.raises(PlannedError) as caught:
        parse_pool_file(LEAST + text, "pool.yaml")
    assert str(caught.value).startswith(f"pool.yaml:3: {key}: is planned")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text",
        "- a\n- b\n",
        "a: [\n",
        "a: 1\n---\nb: 2\n",
        "\t- x",
        "? [a, b]\n: 1\n",
        "[" * 3000,
        "name: !!python/object/apply:os.getcwd []\n",
        "name: !mine api\n",
        "a: &a [*a]\n",
        "<<: {name: x}\n",
        "size: !!int x\n",
        # each line ten times the one before
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{new}: &{new} [{','.join(['*' + old] * 10)}]\n"
            for old, new in zip("abcdefgh", "bcdefghi", strict=True)
        ),
    ],
)
def test_odd_yaml_is_refused_not_run(text: str) -> None:
    found = problems(text)
    assert found[0].startswith("pool.yaml:")


@given(st.text(max_size=200) | st.text("{}[]:&*!-#\n ab'\"%@,?|>", max_size=60))
def test_no_text_at_all_escapes_as_another_error(text: str) -> None:
    try:
        parse_pool_file(text, "pool.yaml")
    except GreenroomError as error:
        assert error.exit_code == 2  # noqa: PT017 most texts are refused, none may crash


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(PoolFileError, match=r"missing\.yaml: cannot be read: No such file"):
        load_pool_file(tmp_path / "missing.yaml")
    large = tmp_path / "large.yaml"
    large.write_text("#" * (MAX_BYTES + 1))
    with pytest.raises(PoolFileError, match="larger than 256 KiB"):
        load_pool_file(large)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: api\nrepo: \xff\xfe\n")
    with pytest.raises(PoolFileError, match=r"binary\.yaml:2: is not UTF-8"):
        load_pool_file(binary)


@pytest.mark.parametrize(
    ("repo", "expected"),
    [
        (".", "{folder}"),
        ("./code", "{folder}/code"),
        ("code", "{folder}/code"),
        ("absent", "absent"),
        ("/srv/code", "/srv/code"),
        ("https://git.example.com/a.git", "https://git.example.com/a.git"),
        ("git@git.example.com:a.git", "git@git.example.com:a.git"),
    ],
)
def test_a_relative_repo_counts_from_the_file(tmp_path: Path, repo: str, expected: str) -> None:
    (tmp_path / "code").mkdir()
    file = tmp_path / "pool.yaml"
    file.write_text(f"name: api\nrepo: {repo}\n")
    assert load_pool_file(file).repo == expected.format(folder=tmp_path.resolve())


def test_the_schema_knows_every_key_and_takes_units() -> None:
    found = schema()
    assert set(found["properties"]) == set(PoolConfig.model_fields)
    assert set(found["required"]) == {"name", "repo"}
    assert found["additionalProperties"] is False
    ttl = found["$defs"]["LeaseTerms"]["properties"]["ttl"]
    assert {option["type"] for option in ttl["anyOf"]} == {"number", "string"}
