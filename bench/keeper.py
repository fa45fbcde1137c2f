"""Bursts of claims on one keeper, with containers that exist only as words (P5, P8, P9).

    python -m bench.keeper [--containers N]

Everything but Docker is real: Temporal with its file database, once with the settings of
`greenroom up` and once with its defaults, the workflows in a process of their own, the API on a
Unix socket, and clients in one process and in twenty.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from bench.fake_worker import QUEUE
from bench.measure import Result, p50, p99, table, timed, timed_await
from greenroom.client import SAFE_IN_FLIGHT, PoolClient
from greenroom.core import keeper, leases, plan
from greenroom.core.access import Scope
from greenroom.core.config import PoolConfig
from greenroom.core.ledger import Ledger, Slot
from greenroom.core.lifecycle import EndReason, State
from greenroom.core.messages import ClaimRequest, ReleaseRequest
from greenroom.core.names import keeper_id
from greenroom.core.pool_messages import PoolStatus
from greenroom.core.records import SnapshotRecord, Source
from greenroom.services import embedded_temporal
from tests.workflows.api_lab import ApiLab, serving
from tests.workflows.fake_host import FakeHost
from tests.workflows.pools import Pool
from tests.workflows.workers import Workers

BURST = 100
PROCESSES = 20
LIFTED = 200
"""Updates in flight that the API allows itself where the server's limits are lifted."""
POOL = "bench"


@dataclass(frozen=True)
class Server:
    """``limits`` names its settings; ``in_flight`` is what our API then allows itself."""

    limits: str
    address: str
    in_flight: int


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.keeper", description=__doc__)
    parser.add_argument("--containers", type=int, default=1000)
    print(table(measure(parser.parse_args().containers)))


def measure(containers: int) -> list[Result]:
    """P5, P8 and P9; ``containers``: how many are claimed at once for P8."""
    results = planner()
    for defaults in (False, True):
        results += asyncio.run(bursts(defaults=defaults))
    return results + asyncio.run(drain(containers))


def planner() -> list[Result]:
    """P9: one decision over 1,000 containers; and what claims take of the ledger."""
    ledger = _ledger(1000)
    times = [
        timed(lambda: plan.decide(keeper.facts(ledger, looking=False), 1.0)) for _ in range(50)
    ]
    empty = ledger.size_bytes()
    for number in range(1000):
        leases.claim(ledger, ClaimRequest(claim_id=f"claim-{number}", holder="agent"), 1.0)
    ledger.outbox.clear()
    live = (ledger.size_bytes() - empty) / 1000
    for number in range(1000):
        ledger.remember_ended(f"ended-{number}", f"{number:026d}", EndReason.RELEASED, 1.0)
    ended = (ledger.size_bytes() - empty - 1000 * live) / 1000
    return [
        Result(
            "P9", "planner, 1,000 containers", "quiet", p50(times), p99(times), target="≤ 5 ms",
            met=p50(times) <= 5, samples=50,
        ),
        Result("P8", f"ledger: {live:.0f} bytes a live claim, {ended:.0f} an ended one", "", None),
    ]  # fmt: skip


def _ledger(containers: int) -> Ledger:
    """So many ready containers of one snapshot."""
    source = Source(commit="c" * 40, ref="main", mirror="m", dependencies="d", fingerprint="f" * 20)
    record = SnapshotRecord(source=source, image_id="i", image_tag="t", built_at=0, seconds=1)
    config = _config(containers)
    ledger = Ledger(pool=POOL, config=config, wanted=source, serving=record, look=False)
    for number in range(containers):
        slot = Slot(
            container=f"{number:026d}", state=State.READY, since=0, created_at=0, host="host",
            docker_id=f"{number:064x}", fingerprint=source.fingerprint, shape=ledger.shape(),
            commit=source.commit,
        )  # fmt: skip
        ledger.slots[slot.container] = slot
    return ledger


async def bursts(*, defaults: bool) -> list[Result]:
    """P5: claims at once on 100 ready containers, from one process and from twenty."""
    found = []
    async with server(defaults=defaults) as one, _lab(one, BURST) as lab:
        load = f"server with {one.limits}"
        baseline = p50(await _alone(lab, 20))
        token = lab.token("bench", Scope.CLAIM)
        async with lab.remote() as url:
            tcp = await _alone(lab, 20, url, token)
        found.append(
            Result(
                "P5", "one claim alone, over TCP with a token", load, p50(tcp), p99(tcp),
                "over the Unix socket", baseline, p50(tcp) / baseline, samples=len(tcp),
            )
        )  # fmt: skip
        for what, count, claim in (
            ("one process", 10, _one_process),
            ("one process", BURST, _one_process),
            (f"{PROCESSES} processes", BURST, _many_processes),
        ):
            await until(lab.pool, lambda status: status.counts.ready >= BURST)
            times = await claim(lab, count)
            all_in_time = len(times) == count and p99(times) <= 1000
            found.append(
                Result(
                    "P5", f"{count} claims at once, {what}", load, p50(times), p99(times),
                    "one claim alone", baseline, p99(times) / baseline,
                    "all, p99 ≤ 1 s" if count == BURST else "",
                    all_in_time if count == BURST else None, count,
                )
            )  # fmt: skip
            await _release_all(lab)
    return found


async def drain(containers: int) -> list[Result]:
    """P8: how many claims a second one keeper grants while there are ready containers."""
    async with server(defaults=False) as one, _lab(one, containers) as lab:
        client = lab.state.client
        began = time.perf_counter()
        requests = [ClaimRequest(claim_id=f"d{number}") for number in range(containers)]
        times = await asyncio.gather(
            *(timed_await(client.claim(POOL, request)) for request in requests)
        )
        seconds = time.perf_counter() - began
        await _release_all(lab)
        status = await until(lab.pool, lambda now: now.counts.ready >= containers)
        events = await _keeper_events(lab.pool.client)
        lives = sum(status.retired.values())
        rate = containers / seconds
        return [
            Result(
                "P8", f"{containers} claims at once on {containers} ready ({rate:.0f}/s)",
                "no refill bound", p50(times), p99(times), "200 claims/s",
                containers / 200 * 1000, rate / 200, "≥ 200/s", rate >= 200, containers,
            ),
            Result(
                "P8", f"keeper events per slot's whole life: {events / max(1, lives):.1f}",
                f"{lives} lives", None,
            ),
        ]  # fmt: skip


# ── one lab ──────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def server(*, defaults: bool) -> AsyncIterator[Server]:
    """A Temporal server of its own, with our settings or with its defaults."""
    with tempfile.TemporaryDirectory(prefix="greenroom-bench-") as folder:
        port = embedded_temporal.free_port(0, 0)
        line = [str(embedded_temporal.program()), "server", "start-dev", "--headless"]
        line += ["--ip", "127.0.0.1", "--port", str(port), "--log-level", "error"]
        line += ["--db-filename", f"{folder}/temporal.db"]
        line += embedded_temporal.server_options(limits_lifted=not defaults)
        process = await asyncio.create_subprocess_exec(
            *line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            name = "Temporal's defaults" if defaults else "our settings"
            yield Server(name, f"127.0.0.1:{port}", SAFE_IN_FLIGHT if defaults else LIFTED)
        finally:
            process.kill()
            await process.wait()


@asynccontextmanager
async def _lab(one: Server, containers: int) -> AsyncIterator[ApiLab]:
    """The API on a Unix socket before a pool of so many ready containers."""
    line = [sys.executable, "-m", "bench.fake_worker", one.address, POOL]
    worker = await asyncio.create_subprocess_exec(*line)
    try:
        pool = await ready_pool(one.address, containers)
        with tempfile.TemporaryDirectory(prefix="greenroom-bench-") as folder:
            messages = PoolClient(pool.client, in_flight=one.in_flight)
            async with serving(pool, Path(folder), messages) as lab:
                yield lab
    finally:
        worker.terminate()
        await worker.wait()


async def ready_pool(address: str, containers: int) -> Pool:
    """A pool of so many ready containers, whose worker runs already."""
    client = await _connected(address)
    host = FakeHost(POOL, QUEUE)
    pool = Pool(client, host, POOL, _config(containers), Workers(client, host))
    await pool.configure()
    await until(pool, lambda status: status.counts.ready >= containers)
    return pool


async def _connected(address: str) -> Client:
    for _ in range(200):
        try:
            return await Client.connect(address, data_converter=pydantic_data_converter)
        except RuntimeError:
            await asyncio.sleep(0.05)
    raise TimeoutError(f"Temporal at {address} did not start")


def _config(containers: int) -> PoolConfig:
    size = {"min": containers, "max": min(1000, 2 * containers)}
    return PoolConfig.model_validate({"name": POOL, "repo": "/bench", "size": size})


async def _alone(lab: ApiLab, count: int, url: str = "", token: str = "") -> list[float]:
    """Claims one after another; over TCP where a ``url`` is given."""
    await until(lab.pool, lambda status: status.counts.ready >= BURST)
    names = [f"alone{'-tcp' if url else ''}-{number}" for number in range(count)]
    headers = {"Authorization": f"Bearer {token}"}
    remote = httpx.AsyncClient(base_url=url, headers=headers, trust_env=False)
    async with remote if url else _http(lab) as http:
        times = [await timed_await(_claim(http, name)) for name in names]
    await _release_all(lab)
    return times


async def _one_process(lab: ApiLab, count: int) -> list[float]:
    async with _http(lab) as http:
        claims = (_claim(http, f"one-{count}-{number}") for number in range(count))
        return list(await asyncio.gather(*map(timed_await, claims)))


async def _many_processes(lab: ApiLab, count: int) -> list[float]:
    """Twenty processes with five threads each, which start at the same moment."""
    line = [sys.executable, "-m", "bench.burst", str(lab.state.paths.api_socket), POOL]
    share = str(count // PROCESSES)
    started = [
        await asyncio.create_subprocess_exec(
            *line, str(number), share,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    for process in started:  # each says that it is ready
        assert process.stdout is not None
        await process.stdout.readline()
    told = await asyncio.gather(*(process.communicate(b"go\n") for process in started))
    return [took for out, _ in told for took in json.loads(out)]


def _http(lab: ApiLab) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(
            uds=str(lab.state.paths.api_socket), limits=httpx.Limits(max_connections=BURST)
        ),
        base_url="http://localhost",
        timeout=120,
    )


async def _claim(http: httpx.AsyncClient, claim_id: str) -> None:
    body = {"claim_id": claim_id, "wait_s": 60}
    answer = await http.post(f"/v1/pools/{POOL}/claims", json=body)
    answer.raise_for_status()


async def _release_all(lab: ApiLab) -> None:
    status = await lab.pool.status()
    for slot in status.containers:
        if slot.claim_id and not slot.ending:
            lease = await lab.state.client.lease(POOL, slot.claim_id)
            if lease is not None:
                order = ReleaseRequest(claim_id=lease.claim_id, token=lease.token, save=False)
                await lab.state.client.release_by_signal(POOL, order)
    await until(lab.pool, lambda now: not any(slot.claim_id for slot in now.containers))


async def until(pool: Pool, wanted: Callable[[PoolStatus], bool]) -> PoolStatus:
    """Seldom enough that asking is no load."""
    while not wanted(status := await pool.status()):  # noqa: ASYNC110 - asked of a server
        await asyncio.sleep(0.5)
    return status


async def _keeper_events(client: Client) -> int:
    """Events of all runs of the keeper."""
    runs = client.list_workflows(f'WorkflowId = "{keeper_id(POOL)}"')
    handles = [client.get_workflow_handle(run.id, run_id=run.run_id) async for run in runs]
    return sum([(await handle.describe()).history_length for handle in handles])


if __name__ == "__main__":
    main()
