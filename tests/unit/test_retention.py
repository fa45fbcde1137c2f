"""Which saved work goes: decided, and done on files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import yaml

from activities.retention import prune_work, work_to_prune
from greenroom.core.config import SavedTerms
from greenroom.core.paths import StatePaths
from greenroom.core.retention import SavedEntry, prune

DAY = 86400.0
TERMS = SavedTerms(keep=10 * DAY, max_total=100_000)


def names(*entries: SavedEntry, now: float = 100 * DAY) -> list[str]:
    return [one.name for one in prune(entries, TERMS, now)]


def entry(name: str, age_d: float, size: int = 1) -> SavedEntry:
    return SavedEntry(name, 100 * DAY - age_d * DAY, size)


def test_work_goes_by_age() -> None:
    assert names(entry("old", 10.1), entry("young", 9.9)) == ["old"]


def test_over_budget_the_oldest_go_first_and_the_newest_that_fit_stay() -> None:
    assert names(entry("c", 1, 60_000), entry("a", 3, 60_000), entry("b", 2, 40_000)) == ["a"]
    assert names(entry("a", 2, 50_000), entry("b", 1, 50_000)) == []


def test_one_too_large_does_not_take_the_smaller_ones_with_it() -> None:
    assert names(entry("small", 3, 10), entry("huge", 2, 200_000), entry("new", 1, 10)) == ["huge"]


def test_on_files_each_pool_has_its_own_terms_and_unfinished_work_is_left_alone(
    tmp_path: Path,
) -> None:
    paths, now = StatePaths(tmp_path), time.time()
    paths.pools.mkdir()
    kept = {"name": "short", "repo": "/r", "saved": {"keep": "1h"}}
    (paths.pools / "short.yaml").write_text(yaml.safe_dump(kept))
    for pool in ("short", "other"):
        for claim, age_s in (("old", 7200), ("new", 60)):
            place = paths.saved_claim(pool, claim)
            place.mkdir(parents=True)
            (place / "saved.json").write_text(json.dumps({"state": "saved"}))
            os.utime(place / "saved.json", (now - age_s, now - age_s))
    half = paths.saved / "short" / ".half.1"
    half.mkdir()
    for place, pruned in list(work_to_prune(paths, now)):
        prune_work(place, pruned)
    left = {str(path.relative_to(paths.saved)) for path in paths.saved.glob("*/*")}
    assert left == {"short/new", "short/.half.1", "other/old", "other/new"}
