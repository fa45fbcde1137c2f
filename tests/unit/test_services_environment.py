"""The lock files agree with the project, name no registry, and are installed from the host's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from greenroom.services.debian_parent import Mirrors, parse_targets
from greenroom.services.environment import pip_settings, uv_variables

ROOT = Path(__file__).resolve().parents[2]
LOCKS = [*ROOT.glob("requirements*.lock"), ROOT / "deploy/base-image/tools.lock"]
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)


def pins(name: str) -> dict[str, Version]:
    text = (ROOT / name).read_text()
    return {canonicalize_name(each): Version(version) for each, version in _PIN.findall(text)}


def project() -> dict[str, list[str]]:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return {"run": data["project"]["dependencies"], "dev": data["dependency-groups"]["dev"]}


@pytest.mark.parametrize(
    ("lock", "groups"),
    [("requirements.lock", ["run"]), ("requirements-dev.lock", ["run", "dev"])],
)
def test_the_lock_satisfies_every_requirement_of_the_project(lock: str, groups: list[str]) -> None:
    locked = pins(lock)
    for group in groups:
        for text in project()[group]:
            wanted = Requirement(text)
            name = canonicalize_name(wanted.name)
            assert name in locked, f"{name} is not in {lock}: run make lock"
            assert locked[name] in wanted.specifier, f"{text} against {locked[name]}: run make lock"


def test_tests_run_with_what_is_shipped() -> None:
    shipped, tested = pins("requirements.lock"), pins("requirements-dev.lock")
    assert shipped.items() <= tested.items()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_pin_has_a_hash_and_no_lock_has_an_address(lock: Path) -> None:
    text = lock.read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert entries
    for entry in entries:
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text


def test_what_pip_is_told_of_the_registry_reaches_uv() -> None:
    pip = pip_settings(
        "global.index-url='https://user:pw@pkg.internal.example/simple'\n"
        "global.extra-index-url='file:///mnt/wheels\\nhttps://more.internal.example/simple'\n"
        ":env:.cert='/etc/ssl/corp.pem'\n"
        "global.trusted-host='pkg.internal.example'\n"
        "install.no-compile='true'\n"
    )
    assert uv_variables(pip, {}) == {
        "UV_DEFAULT_INDEX": "https://user:pw@pkg.internal.example/simple",
        "UV_INDEX": "https://more.internal.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_INSECURE_HOST": "pkg.internal.example",
        "SSL_CERT_FILE": "/etc/ssl/corp.pem",
    }


def test_uvs_own_variables_win_and_nothing_is_made_up() -> None:
    assert uv_variables(pip_settings(""), {}) == {}
    pip = pip_settings("global.index-url='https://pkg.internal.example/simple'")
    assert uv_variables(pip, {"UV_DEFAULT_INDEX": "https://other.example/simple"}) == {}


def test_the_mirror_is_the_one_of_the_hosts_own_apt() -> None:
    text = (
        "bookworm-security http://mirror.example/debian-security/ main\n"
        "bookworm-updates http://mirror.example/debian/ main\n"
        "bookworm http://mirror.example/contrib/ contrib\n"
        "bookworm http://mirror.example/debian/ main\n"
        "bookworm http://second.example/debian/ main\n"
    )
    assert parse_targets(text) == Mirrors(
        "http://mirror.example/debian", "http://mirror.example/debian-security"
    )


def test_a_host_of_another_release_names_no_mirror() -> None:
    assert parse_targets("noble http://mirror.example/ubuntu/ main\n\n") == Mirrors("", "")
