"""What ``/metrics`` shows: the keepers' own counts, and what the API sees of claims.

``METRICS`` is the one list of them; the reference in the docs is made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from greenroom.core.pool_messages import PoolStatus

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True)
class MetricSpec:
    """One metric. ``buckets`` are upper bounds in seconds (histograms only)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


_CLAIM_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0),
)
_PREPARATION_BUCKETS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0)

METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        "greenroom_containers",
        "gauge",
        ("pool", "state"),
        "Containers by state: creating, cloning, installing, ready, claimed; stale are those "
        "ready ones that a fresh one will replace.",
    ),
    MetricSpec("greenroom_target", "gauge", ("pool",), "Ready containers that the pool aims at."),
    MetricSpec("greenroom_max", "gauge", ("pool",), "Live containers at most."),
    MetricSpec("greenroom_queue_length", "gauge", ("pool",), "Claims that wait for a container."),
    MetricSpec("greenroom_paused", "gauge", ("pool",), "1 while the pool prepares nothing new."),
    MetricSpec(
        "greenroom_failure_streak",
        "gauge",
        ("pool",),
        "Failures of preparing in a row; the pool stops trying after five.",
    ),
    MetricSpec(
        "greenroom_snapshot_age_seconds",
        "gauge",
        ("pool",),
        "Age of the snapshot that new containers start from.",
    ),
    MetricSpec(
        "greenroom_warm_hit_ratio",
        "gauge",
        ("pool",),
        "Part of all claims that found a ready container at once, since the pool began.",
    ),
    MetricSpec(
        "greenroom_cold_start_ratio",
        "gauge",
        ("pool",),
        "Part of all claims that found none ready, since the pool began.",
    ),
    MetricSpec(
        "greenroom_claims_total",
        "counter",
        ("pool", "result", "reason"),
        "Claims by result: warm, cold (granted after a wait), refused; refused ones by reason.",
    ),
    MetricSpec(
        "greenroom_misses_total",
        "counter",
        ("pool", "reason"),
        "Claims that found no ready container, by the reason why there was none.",
    ),
    MetricSpec(
        "greenroom_retired_total",
        "counter",
        ("pool", "reason"),
        "Containers that ended, by the reason of their end.",
    ),
    MetricSpec(
        "greenroom_claim_seconds",
        "histogram",
        ("pool", "warm"),
        "From a claim's arrival at the API to its armed container.",
        _CLAIM_BUCKETS,
    ),
    MetricSpec(
        "greenroom_preparation_seconds",
        "histogram",
        ("pool",),
        "From a container's creation to ready.",
        _PREPARATION_BUCKETS,
    ),
)
_BY_NAME = {spec.name: spec for spec in METRICS}


class Metrics:
    """The registry of one API process."""

    def __init__(self) -> None:
        self._statuses: tuple[PoolStatus, ...] = ()
        self._seen: dict[str, tuple[float, ...]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(self))
        self._claims = _histogram("greenroom_claim_seconds", self._registry)
        self._preparations = _histogram("greenroom_preparation_seconds", self._registry)

    @property
    def statuses(self) -> tuple[PoolStatus, ...]:
        """The pools as last told to ``render``."""
        return self._statuses

    def claimed(self, pool: str, seconds: float, *, warm: bool) -> None:
        """One claim was granted and armed."""
        self._claims.labels(pool, str(warm).lower()).observe(seconds)

    def render(self, statuses: Iterable[PoolStatus]) -> bytes:
        """The text for Prometheus, in its exposition format."""
        self._statuses = tuple(statuses)
        for status in self._statuses:
            before = self._seen.get(status.pool, ())
            for seconds in new_timings(before, status.preparation_s):
                self._preparations.labels(status.pool).observe(seconds)
            self._seen[status.pool] = status.preparation_s
        return generate_latest(self._registry)


def new_timings(before: tuple[float, ...], now: tuple[float, ...]) -> tuple[float, ...]:
    """What was appended to a list of which only the last few are kept."""
    for keep in range(min(len(before), len(now)), 0, -1):
        if before[-keep:] == now[:keep]:
            return now[keep:]
    return now


def _histogram(name: str, registry: CollectorRegistry) -> Histogram:
    spec = _BY_NAME[name]
    return Histogram(name, spec.help, spec.labels, buckets=spec.buckets, registry=registry)


class _Collector:
    """Turns the pools' statuses into samples at the moment of a scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        families = {spec.name: _family(spec) for spec in METRICS if spec.kind != "histogram"}
        for status in self._metrics.statuses:
            for name, labels, value in samples(status):
                families[name].add_metric(labels, value)
        yield from families.values()


def _family(spec: MetricSpec) -> GaugeMetricFamily | CounterMetricFamily:
    family = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    return family(spec.name, spec.help, labels=spec.labels)


def samples(status: PoolStatus) -> Iterator[tuple[str, list[str], float]]:
    """Metric name, label values and value of everything in one pool's status."""
    pool, counts = status.pool, status.counts.model_dump()
    for state in ("creating", "cloning", "installing", "ready", "claimed", "stale"):
        yield "greenroom_containers", [pool, state], counts[state]
    yield "greenroom_target", [pool], status.target
    yield "greenroom_max", [pool], status.max
    yield "greenroom_queue_length", [pool], status.queue
    yield "greenroom_paused", [pool], float(status.paused)
    yield "greenroom_failure_streak", [pool], status.failure_streak
    if status.snapshot is not None:
        age = max(0.0, status.at - status.snapshot.built_at)
        yield "greenroom_snapshot_age_seconds", [pool], age
    if status.hit_rate is not None:
        yield "greenroom_warm_hit_ratio", [pool], status.hit_rate
    if status.cold_rate is not None:
        yield "greenroom_cold_start_ratio", [pool], status.cold_rate
    yield "greenroom_claims_total", [pool, "warm", ""], status.claims_warm
    yield "greenroom_claims_total", [pool, "cold", ""], status.claims_cold
    for reason, value in status.claims_refused.items():
        yield "greenroom_claims_total", [pool, "refused", reason], value
    for reason, value in status.misses.items():
        yield "greenroom_misses_total", [pool, reason], value
    for reason, value in status.retired.items():
        yield "greenroom_retired_total", [pool, reason], value
