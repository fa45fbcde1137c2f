"""Which lines are chosen for which files, and which files decide the dependencies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.core.recipe import LOCKFILES, MANIFESTS, choose, dependency_files


@pytest.mark.parametrize(
    ("files", "install"),
    [
        (["uv.lock", "pyproject.toml"], ["uv sync --locked"]),
        (["uv.lock", "requirements.txt", "pyproject.toml"], ["uv sync --locked"]),
        (
            ["requirements.txt", "requirements-dev.txt", "pyproject.toml"],
            [
                "python3 -m venv .venv",
                ".venv/bin/python -m pip install -r requirements-dev.txt -r requirements.txt",
            ],
        ),
        (
            ["pyproject.toml"],
            ["python3 -m venv .venv", ".venv/bin/python -m pip install -e ."],
        ),
        (["package-lock.json", "package.json"], ["npm ci --no-audit --no-fund"]),
        (["package.json"], ["npm install --no-audit --no-fund"]),
        (
            ["uv.lock", "package-lock.json", "package.json"],
            ["uv sync --locked", "npm ci --no-audit --no-fund"],
        ),
        (["README.md", "src/uv.lock", "docs/package.json"], []),
        ([], []),
    ],
)
def test_the_lines_follow_from_the_files(files: list[str], install: list[str]) -> None:
    assert list(choose(files).install) == install


def test_every_recipe_says_why_and_syncs_offline() -> None:
    for name in ("uv.lock", "requirements.txt", "pyproject.toml", "package-lock.json"):
        recipe = choose([name])
        assert name in recipe.why
        assert recipe.sync
        assert all("--offline" in line or "--no-index" in line for line in recipe.sync)
    assert "nothing to install" in choose(["README.md"]).why


def test_the_well_known_names_decide_unless_others_are_given() -> None:
    files = ["uv.lock", "pyproject.toml", "package.json", "src/uv.lock", "a.txt", "lib/req.in"]
    assert dependency_files(files, None, ()) == ("package.json", "pyproject.toml", "uv.lock")
    assert dependency_files(files, ("lib/req.in",), ()) == (
        "lib/req.in",
        "package.json",
        "pyproject.toml",
    )


@pytest.mark.parametrize(
    ("glob", "matched"),
    [
        ("*.txt", {"a.txt"}),
        ("**/*.txt", {"a.txt", "d/b.txt", "d/e/c.txt"}),
        ("d/*.txt", {"d/b.txt"}),
        ("d/**", {"d/b.txt", "d/e/c.txt"}),
        ("./a.txt", {"a.txt"}),
        ("?.txt", {"a.txt"}),
        ("a[.txt", set()),
    ],
)
def test_globs_of_inputs(glob: str, matched: set[str]) -> None:
    files = ["a.txt", "d/b.txt", "d/e/c.txt", "a.md"]
    assert set(dependency_files(files, (), (glob,))) == matched


@given(st.sets(st.sampled_from([*LOCKFILES, *MANIFESTS, "x.py", "a/uv.lock"])))
def test_what_decides_is_there_and_order_does_not_matter(files: set[str]) -> None:
    chosen = dependency_files(files, None, ())
    assert set(chosen) <= files
    assert list(chosen) == sorted(chosen)
    assert choose(sorted(files)) == choose(sorted(files, reverse=True))
