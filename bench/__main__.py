"""Run the benchmarks: a table on standard output, JSON in ``--out``.

    python -m bench [--quick] [--out FILE]

Brings up an install of its own and takes it down again; needs root and Docker, as `make up` does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from pathlib import Path

from bench import keeper, targets
from bench.measure import Result, as_json, table
from bench.stack import running


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--out", type=Path, default=Path("bench-results.json"))
    options = parser.parse_args()
    rounds = 1 if options.quick else 3
    size = 2 * targets.BATCH
    results: list[Result] = []
    with running(size) as stack:
        for load in (targets.QUIET, targets.LOADED):
            few = 5 * rounds if load == targets.QUIET else rounds
            results += targets.claims(stack, load, rounds, size)
            results += targets.first_command(stack, load, few)
            results.append(targets.refill(stack, load, size))
            results += targets.command_line(stack, load, few)
    results += keeper.measure(200 if options.quick else 1000)
    print(table(results))
    document = {"machine": _machine(), "results": as_json(results)}
    options.out.write_text(json.dumps(document, indent=1) + "\n")


def _machine() -> dict[str, object]:
    docker = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"],
        text=True, capture_output=True, check=True,
    )  # fmt: skip
    return {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "docker": docker.stdout.strip(),
    }


if __name__ == "__main__":
    main()
