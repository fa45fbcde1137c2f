"""What a snapshot is named by: a hash of all that went into it (as repo2docker's content id)."""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict

RECIPE_VERSION = 1
"""Raised when the way in which lines are run changes, so that old snapshots are not reused."""


class DependencyInputs(BaseModel):
    """What decides the installed dependencies. ``files`` maps path to its git blob id."""

    model_config = ConfigDict(frozen=True)

    files: dict[str, str]
    base_image_id: str
    architecture: str
    user: str
    environment: dict[str, str]
    ca_bundle: str
    system: tuple[str, ...]
    install: tuple[str, ...]


def dependency_fingerprint(inputs: DependencyInputs) -> str:
    """20 hex digits; equal exactly when ``install`` need not run again."""
    return _digest({"version": RECIPE_VERSION, **inputs.model_dump()})


def snapshot_fingerprint(
    dependencies: str, commit: str, build: tuple[str, ...], verify: tuple[str, ...]
) -> str:
    """20 hex digits; equal exactly when the snapshot can be used as it is."""
    return _digest({"deps": dependencies, "commit": commit, "build": build, "verify": verify})


def _digest(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:20]
