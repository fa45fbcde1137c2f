"""The pool files that this host keeps: of every pool that was applied here, as it is now."""

from __future__ import annotations

import yaml

from greenroom.core.config import PoolConfig
from greenroom.core.errors import UsageError
from greenroom.core.paths import StatePaths


def kept_config(paths: StatePaths, pool: str) -> PoolConfig | None:
    """A pool's file; None for a pool that was made elsewhere. Raises UsageError (a broken one)."""
    path = paths.pools / f"{pool}.yaml"
    try:
        return PoolConfig.model_validate(yaml.safe_load(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path} is not a pool file: {error}") from error
