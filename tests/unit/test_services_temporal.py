"""Our own Temporal server, on the real binary; and which server an install uses."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from greenroom.core.errors import TemporalError, UsageError
from greenroom.core.paths import StatePaths
from greenroom.services import embedded_temporal, temporal_server
from greenroom.services.settings import Decisions, Settings

NOWHERE = {"TEMPORAL_CONFIG_FILE": os.devnull}


def settings_for(root: Path, decided: Decisions) -> Settings:
    return Settings(StatePaths(root), "0" * 16, "host", decided)


@contextmanager
def taken(port: int = 0) -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
        yield server.getsockname()[1]


@contextmanager
def served(settings: Settings) -> Iterator[None]:
    process = subprocess.Popen(
        embedded_temporal.command(settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def usual_ports_taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with taken() as port, taken() as ui_port:
        monkeypatch.setattr(temporal_server, "USUAL_PORT", port)
        monkeypatch.setattr(temporal_server, "USUAL_UI_PORT", ui_port)
        yield


@pytest.mark.usefixtures("usual_ports_taken")
def test_the_embedded_server_comes_up_with_our_attributes_twice_on_one_database(
    tmp_path: Path,
) -> None:
    decided = temporal_server.choose(NOWHERE, None)
    assert decided.embedded
    ids = []
    for _ in range(2):
        settings = settings_for(tmp_path, decided)
        with served(settings):
            # Waits for every search attribute, and answers with the namespace's id.
            ids.append(temporal_server.wait_ready(settings, NOWHERE, 30.0))
    assert len(set(ids)) == 1, "the namespace outlives a restart"
    assert settings.paths.temporal_db.exists()


@pytest.mark.usefixtures("usual_ports_taken")
def test_a_users_own_server_gets_the_attributes_registered_once(tmp_path: Path) -> None:
    decided = temporal_server.choose(NOWHERE, None)
    bare = settings_for(tmp_path, decided)
    line = embedded_temporal.command(bare)
    first = line.index("--search-attribute")
    last = first + 2 * len(embedded_temporal.SEARCH_ATTRIBUTES)
    process = subprocess.Popen(
        line[:first] + line[last:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        environ = {
            **NOWHERE,
            "TEMPORAL_ADDRESS": decided.temporal_address,
            "TEMPORAL_NAMESPACE": decided.temporal_namespace,
        }
        own = settings_for(tmp_path, temporal_server.choose(environ, None))
        assert not own.embedded
        assert own.ui_url == ""
        first_id = temporal_server.wait_ready(own, environ, 30.0)
        assert temporal_server.wait_ready(own, environ, 5.0) == first_id
        missing = settings_for(tmp_path, replace(own.decided, temporal_namespace="elsewhere"))
        with pytest.raises(TemporalError, match="no namespace elsewhere"):
            temporal_server.wait_ready(missing, environ, 0.0)
    finally:
        process.terminate()
        process.wait(20)


def test_a_server_out_of_reach_is_named(tmp_path: Path) -> None:
    with taken() as port:
        pass
    settings = settings_for(tmp_path, replace(Decisions(), temporal_address=f"127.0.0.1:{port}"))
    with pytest.raises(TemporalError, match=f"127.0.0.1:{port}"):
        temporal_server.wait_ready(settings, NOWHERE, 0.0)


def test_ports_of_last_time_are_taken_again_while_they_are_free() -> None:
    first = temporal_server.choose(NOWHERE, None)
    with taken() as port:
        pass
    before = replace(first, temporal_port=port)
    assert temporal_server.choose(NOWHERE, before).temporal_port == port
    with taken(port):
        assert temporal_server.choose(NOWHERE, before).temporal_port != port


def test_a_profile_selects_the_users_own_server(tmp_path: Path) -> None:
    config = tmp_path / "temporal.toml"
    config.write_text(
        '[profile.prod]\naddress = "temporal.example:7233"\nnamespace = "rooms"\n'
        'api_key = "made-up"\n'
    )
    environ = {"TEMPORAL_CONFIG_FILE": str(config), "TEMPORAL_PROFILE": "prod"}
    decided = temporal_server.choose(environ, None)
    assert (decided.embedded, decided.temporal_address) == (False, "temporal.example:7233")
    # Later commands find the profile again, though their own environment does not name it.
    later = {"TEMPORAL_CONFIG_FILE": str(config)}
    found = temporal_server.connect_config(settings_for(tmp_path, decided), later)
    assert found["target_host"] == "temporal.example:7233"
    assert found["namespace"] == "rooms"
    assert found["api_key"] == "made-up"


def test_going_back_from_an_own_server_to_the_embedded_one(tmp_path: Path) -> None:
    own = temporal_server.choose({**NOWHERE, "TEMPORAL_ADDRESS": "temporal.example:7233"}, None)
    again = temporal_server.choose(NOWHERE, own)
    assert again.embedded
    assert again.temporal_namespace == "greenroom"
    assert again.temporal_address == f"127.0.0.1:{again.temporal_port}"
    found = temporal_server.connect_config(settings_for(tmp_path, again), NOWHERE)
    assert found == {"target_host": again.temporal_address, "namespace": "greenroom"}


def test_a_broken_client_configuration_is_the_callers_mistake(tmp_path: Path) -> None:
    config = tmp_path / "temporal.toml"
    config.write_text("not toml [")
    with pytest.raises(UsageError, match="Temporal client configuration"):
        temporal_server.choose({"TEMPORAL_CONFIG_FILE": str(config)}, None)
