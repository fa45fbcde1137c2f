"""Which install a command belongs to, and what it knows of it."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths
from greenroom.services.settings import (
    Decisions,
    ensure_install_id,
    load_settings,
    read_decisions,
    state_paths,
    write_decisions,
)


def test_the_state_folder_is_the_named_one_or_depends_on_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state_paths({"GREENROOM_STATE": str(tmp_path)}).root == tmp_path
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_paths({}).root == Path("/var/lib/greenroom")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert state_paths({"XDG_STATE_HOME": str(tmp_path)}).root == tmp_path / "greenroom"


def test_an_install_id_is_made_once_however_many_ask_at_once(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path / "state")
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: ensure_install_id(paths), range(32)))
    assert len(ids) == 1
    assert len(ids.pop()) == 16
    assert [path.name for path in paths.root.iterdir()] == ["install_id"]


def test_no_install_is_the_callers_mistake_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make up"):
        load_settings({"GREENROOM_STATE": str(tmp_path)})


def test_every_command_sees_what_up_decided_whatever_its_own_environment(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    install = ensure_install_id(paths)
    decided = replace(
        Decisions(), temporal_address="127.0.0.1:1234", ui_url="http://x", checkout="/c"
    )
    write_decisions(paths, decided)
    settings = load_settings(
        {"GREENROOM_STATE": str(tmp_path), "TEMPORAL_ADDRESS": "other:7233", "GREENROOM_HOST": "h1"}
    )
    assert settings.decided == decided
    assert (settings.install_id, settings.host) == (install, "h1")
    assert settings.temporal_address == "127.0.0.1:1234"
    assert paths.up.stat().st_mode & 0o777 == 0o644


def test_a_key_of_a_newer_version_is_ignored(tmp_path: Path) -> None:
    paths = StatePaths(tmp_path)
    paths.up.write_text(json.dumps({"ui_port": 8300, "from_the_future": 1}))
    assert read_decisions(paths) == replace(Decisions(), ui_port=8300)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ui_port": "8233"}', '{"embedded": 1}'])
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    paths = StatePaths(tmp_path)
    paths.up.write_text(content)
    with pytest.raises(UsageError, match=r"up\.json"):
        read_decisions(paths)


def test_a_broken_install_id_is_refused(tmp_path: Path) -> None:
    StatePaths(tmp_path).install_id.write_text("not hex\n")
    with pytest.raises(UsageError, match="16 hex digits"):
        load_settings({"GREENROOM_STATE": str(tmp_path)})
