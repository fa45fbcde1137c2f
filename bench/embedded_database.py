"""One Update on the embedded server: SQLite's default journal against the write-ahead log.

    python -m bench.embedded_database

The numbers of docs/decisions/0005. Uses a server of its own on a free port.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from temporalio import workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from bench.measure import p50, p99, timed_await
from greenroom.services.embedded_temporal import program

ROUNDS = 60
CHOICES = {"default journal": [], "write-ahead log": ["journal_mode=wal", "synchronous=1"]}


@workflow.defn
class Counter:
    """One workflow that takes Updates."""

    @workflow.run
    async def run(self) -> None:
        await workflow.wait_condition(lambda: False)

    @workflow.update
    def claim(self, number: int) -> int:
        return number


def main() -> None:
    """Print one line for each choice, quiet and beside a writer of 20 MB files."""
    for busy in (False, True):
        for name, pragmas in CHOICES.items():
            with tempfile.TemporaryDirectory() as folder:
                times = _measure(Path(folder), pragmas, busy=busy)
            where = "beside a writer" if busy else "quiet"
            print(f"{name}, {where}: p50 {p50(times):.1f} ms, p99 {p99(times):.1f} ms")


def _measure(folder: Path, pragmas: list[str], *, busy: bool) -> list[float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    line = [str(program()), "server", "start-dev", "--headless", "--ip", "127.0.0.1"]
    line += ["--port", port, "--db-filename", str(folder / "temporal.db"), "--log-level", "error"]
    for pragma in pragmas:
        line += ["--sqlite-pragma", pragma]
    stop = threading.Event()
    writer = threading.Thread(target=_write, args=(folder / "junk", stop))
    server = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        return asyncio.run(_updates(f"127.0.0.1:{port}", writer.start if busy else None))
    finally:
        stop.set()
        if busy:
            writer.join()
        server.kill()
        server.wait()


async def _updates(address: str, disturb: Callable[[], None] | None) -> list[float]:
    client = await _connect(address)
    runner = UnsandboxedWorkflowRunner()
    async with Worker(client, task_queue="q", workflows=[Counter], workflow_runner=runner):
        handle = await client.start_workflow(Counter.run, id="w", task_queue="q")
        if disturb is not None:
            disturb()
        return [
            await timed_await(handle.execute_update(Counter.claim, number))
            for number in range(ROUNDS)
        ]


async def _connect(address: str) -> Client:
    while True:
        try:
            return await Client.connect(address)
        except RuntimeError:
            await asyncio.sleep(0.1)  # the server is coming up


def _write(path: Path, stop: threading.Event) -> None:
    while not stop.is_set():
        path.write_bytes(os.urandom(20 << 20))


if __name__ == "__main__":
    main()
