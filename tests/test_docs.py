"""The docs say what the code says: generated pieces, module map, links."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
assert SPEC is not None
assert SPEC.loader is not None
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]


@pytest.mark.parametrize("page", generate.PAGES)
def test_generated_pieces_are_in_step_with_the_code(page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == generate.rendered(page), (
        f"docs/{page} is out of step: run `python docs/generate.py`"
    )


def test_every_piece_has_a_page() -> None:
    text = "".join((ROOT / "docs" / page).read_text() for page in generate.PAGES)
    assert set(re.findall(r"<!-- generated: ([a-z-]+) -->", text)) == set(generate.PIECES)


def test_every_metric_and_every_key_is_explained() -> None:
    for row in (generate.metrics() + "\n" + generate.configuration()).splitlines():
        assert not re.search(r"\|\s*\|", row), f"an empty cell in {row}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_readmes_module_map_is_whole_and_true() -> None:
    text = (ROOT / "README.md").read_text()
    parts = [p for p in (ROOT / "greenroom").iterdir() if p.suffix == ".py" or p.is_dir()]
    parts += [ROOT / "workflows", ROOT / "activities", ROOT / "worker.py"]
    missing = [p.name for p in parts if not p.name.startswith("_") and p.name not in text]
    assert not missing, f"README.md's module map lacks {sorted(missing)}"
    for path in re.findall(r"`((?:greenroom|workflows|activities|tests|docs)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), f"README.md names {path}, which does not exist"
