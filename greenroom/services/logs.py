"""How the services log: to standard error, which the supervisor keeps in the state folder."""

from __future__ import annotations

import logging


def log_to_stderr() -> None:
    """Set up the root logger of this process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
