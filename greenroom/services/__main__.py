"""``python -m greenroom.services``: get the machine ready (engine and base image), no more."""

from __future__ import annotations

import os
import sys

from greenroom.core.errors import GreenroomError
from greenroom.services.base_image import ensure_base_image
from greenroom.services.engine_setup import ensure_docker
from greenroom.services.settings import state_paths


def _report(step: str, detail: str) -> None:
    sys.stderr.write(f"{step}: {detail}\n")


def main() -> int:
    """Returns the exit code."""
    try:
        engine = ensure_docker(state_paths(os.environ), os.environ, _report)
        ensure_base_image(engine.docker_host, os.environ, _report)
    except GreenroomError as error:
        sys.stderr.write(f"greenroom: {error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
