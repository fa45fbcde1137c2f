"""Secrets of the host by name: who may ask, what is wrong, and that no value is ever told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from activities.host_secrets import Wanted, fetch, public_key
from activities.personal import Personal
from greenroom.core.errors import BackendError, GreenroomError, SecretError, UsageError
from greenroom.core.paths import StatePaths

VALUE = "v4lue-of-it"


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path)


def write(paths: StatePaths, text: str, mode: int = 0o600) -> None:
    paths.host_secrets.write_text(text)
    paths.host_secrets.chmod(mode)


def ask(paths: StatePaths, *names: str) -> dict[str, str]:
    return fetch(paths, Wanted("api", "c1", host_secrets=names), Personal()).secrets


def test_each_source(paths: StatePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text(f"{VALUE}\n")
    monkeypatch.setenv("SOME_VARIABLE", VALUE)
    write(
        paths,
        f"FILE: {{file: {tmp_path}/file}}\n"
        "VARIABLE: {env: SOME_VARIABLE, pools: [web, api]}\n"
        f"COMMAND: {{command: [echo, {VALUE}], timeout: 5s}}\n"
        "OTHERS: {env: SOME_VARIABLE, pools: [web]}\n",
    )
    assert ask(paths, "FILE", "VARIABLE", "COMMAND") == {
        "FILE": f"{VALUE}\n", "VARIABLE": VALUE, "COMMAND": VALUE,
    }  # fmt: skip
    for name in ("OTHERS", "UNKNOWN"):
        with pytest.raises(SecretError, match=f"{name} is not there for pool api"):
            ask(paths, name)


@pytest.mark.parametrize(
    ("text", "kind", "why"),
    [
        ("A: {env: NOT_SET_ANYWHERE}", SecretError, "NOT_SET_ANYWHERE"),
        ("A: {file: /no/such/file}", BackendError, "cannot be read"),
        ("A: {command: [sh, -c, 'echo v4lue-of-it >&2; echo v4lue-of-it; exit 3']}",
         BackendError, "failed with 3"),
        ("A: {command: [sleep, '60'], timeout: 0.05}", BackendError, "too long"),
        ("A: {command: [no-such-program]}", BackendError, "cannot be run"),
        ("A: {command: [printf, '\\377']}", SecretError, "not UTF-8"),
        ("A: {env: X, file: /x}", UsageError, "A: .*exactly one"),
        ("A: {file: relative}", UsageError, "absolute"),
        ("A: {enf: X}", UsageError, "A.enf"),
        ("A: v4lue-of-it", UsageError, "A: "),
        ("[v4lue-of-it]", UsageError, "write NAME"),
        ("{", UsageError, "not YAML"),
        ("'a b': {env: X}", UsageError, "cannot name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_without_the_value(
    paths: StatePaths, text: str, kind: type[GreenroomError], why: str
) -> None:
    write(paths, text)
    with pytest.raises(kind, match=why) as caught:
        ask(paths, "A")
    assert VALUE not in str(caught.value)
    assert caught.value.__cause__ is None  # nor in what a log would show as its cause


def test_a_file_that_others_can_read_is_refused(paths: StatePaths) -> None:
    write(paths, "A: {env: HOME}", mode=0o640)
    with pytest.raises(UsageError, match="chmod 600"):
        ask(paths, "A")


def test_one_name_twice_is_refused(paths: StatePaths) -> None:
    write(paths, "A: {env: HOME}")
    with pytest.raises(UsageError, match="A is given twice"):
        fetch(paths, Wanted("api", "c1", host_secrets=("A",)), Personal(env={"A": "b"}))


def test_a_pools_key_is_made_once_and_for_root_alone(paths: StatePaths) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: public_key(paths, "api"), range(8)))
    assert len(found) == 1
    assert public_key(paths, "web") not in found
    assert [p.name for p in paths.keys.iterdir() if p.name.startswith(".")] == []
    for path in (paths.keys, *paths.keys.iterdir()):
        assert path.stat().st_mode & 0o077 == 0
