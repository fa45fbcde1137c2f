"""One of many processes that claim at the same moment, each with a few threads.

python -m bench.burst SOCKET POOL NAME COUNT
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.measure import timed
from greenroom.cli.endpoint import Local
from greenroom.cli.http_client import Api, Ask
from greenroom.core.wire import url


def main(socket: str, pool: str, name: str, count: str) -> None:
    """Say ``ready``, wait for a line, claim; print the milliseconds of each as a JSON list."""
    path = Path(socket)
    api = Api(Local(path, path.with_name("supervisor.sock"), f"at {path}"))

    def claim(number: int) -> float:
        body = {"claim_id": f"p{name}-{number}", "wait_s": 60}
        return timed(lambda: api.ask(Ask("POST", url("pools", pool, "claims"), body)))

    with ThreadPoolExecutor(int(count)) as threads:
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(list(threads.map(claim, range(int(count))))))


if __name__ == "__main__":
    main(*sys.argv[1:])
