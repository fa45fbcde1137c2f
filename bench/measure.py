"""Times, percentiles and the table that a run prints."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Result:
    """One line of the table: a measured value beside its baseline, as a ratio.

    ``value_ms`` and ``baseline_ms`` are milliseconds (p50 unless the name says otherwise),
    ``value_ms`` None where ``what`` has a count in it; ``target`` says what the design asks for;
    ``met`` is None where it asks for nothing.
    """

    id: str
    what: str
    load: str
    value_ms: float | None
    p99_ms: float | None = None
    baseline: str = ""
    baseline_ms: float | None = None
    ratio: float | None = None
    target: str = ""
    met: bool | None = None
    samples: int = 1


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that ``work`` took."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


async def timed_await(work: Awaitable[object]) -> float:
    """Milliseconds until ``work`` was done."""
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000


def p50(values: list[float]) -> float:
    return statistics.median(values)


def p99(values: list[float]) -> float:
    """The 99th percentile by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]


def table(results: list[Result]) -> str:
    """Markdown."""
    rows = [
        "| id | what | load | p50 | p99 | baseline | ratio | target | met |",
        "| --- | --- | --- | ---: | ---: | --- | ---: | --- | --- |",
    ]
    for r in results:
        base = f"{r.baseline}: {_ms(r.baseline_ms)}" if r.baseline_ms is not None else r.baseline
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}"
        met = {None: "", True: "yes", False: "**no**"}[r.met]
        rows.append(
            f"| {r.id} | {r.what} | {r.load} | {_ms(r.value_ms)} | {_ms(r.p99_ms)} | {base} "
            f"| {ratio} | {r.target} | {met} |"
        )
    return "\n".join(rows)


def _ms(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 1000:.2f} s" if value >= 1000 else f"{value:.1f} ms"


def as_json(results: list[Result]) -> list[dict[str, object]]:
    return [asdict(result) for result in results]
