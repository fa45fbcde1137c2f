"""What the SDK's sandbox costs a worker: its CPU time for claims with their refill.

    python -m bench.sandbox

The numbers of docs/decisions/0006. Containers exist only as words (``bench.fake_worker``).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from bench.keeper import POOL, ready_pool, server, until
from bench.measure import p50, timed_await

CONTAINERS, CLAIMS = 30, 25


def main() -> None:
    """Print one line for each of the two runners."""
    for sandbox in ("sandbox", ""):
        cpu_ms, claim_ms = asyncio.run(_measure(sandbox))
        name = "in the sandbox" if sandbox else "outside"
        print(
            f"{name}: {cpu_ms:.0f} ms of CPU for a claim and its refill, Update {claim_ms:.1f} ms"
        )


async def _measure(sandbox: str) -> tuple[float, float]:
    async with server(defaults=False) as one:
        line = [sys.executable, "-m", "bench.fake_worker", one.address, POOL, sandbox]
        worker = await asyncio.create_subprocess_exec(*line)
        try:
            pool = await ready_pool(one.address, CONTAINERS)
            before, times = _cpu_ms(worker.pid), []
            for number in range(CLAIMS):
                await until(pool, lambda status: status.counts.ready >= CONTAINERS)
                times.append(await timed_await(pool.claim(f"c{number}")))
            await until(pool, lambda status: status.counts.ready >= CONTAINERS)
            return (_cpu_ms(worker.pid) - before) / CLAIMS, p50(times)
        finally:
            worker.terminate()
            await worker.wait()


def _cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
