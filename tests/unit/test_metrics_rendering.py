"""``/metrics`` says what the keepers say, and every metric is one of the list."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from greenroom.core.pool_messages import Counts, PoolStatus, RefreshView
from greenroom.metrics import METRICS, Metrics, new_timings


def status(**changes: object) -> PoolStatus:
    plain = PoolStatus(
        pool="api", repo="/r", ref="HEAD", commit="c", fingerprint="f", target=2, max=10,
        paused=False, counts=Counts(ready=2, claimed=1), queue=3, containers=(), hit_rate=0.75,
        cold_rate=0.25, claims_warm=3, claims_cold=1, claims_refused={"pool_empty": 2},
        misses={"pool_empty": 3}, retired={"released": 4}, refresh=RefreshView(),
        preparation_s=(1.0, 2.0),
    )  # fmt: skip
    return plain.model_copy(update=changes)


def samples(metrics: Metrics, *statuses: PoolStatus) -> dict[tuple[str, str], float]:
    text = metrics.render(statuses).decode()
    return {
        (sample.name, ",".join(str(value) for _, value in sorted(sample.labels.items()))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_are_the_keepers() -> None:
    found = samples(Metrics(), status())
    assert found["greenroom_containers", "api,ready"] == 2
    assert found["greenroom_containers", "api,claimed"] == 1
    assert found["greenroom_target", "api"] == 2
    assert found["greenroom_queue_length", "api"] == 3
    assert found["greenroom_warm_hit_ratio", "api"] == 0.75
    assert found["greenroom_cold_start_ratio", "api"] == 0.25
    assert found["greenroom_claims_total", "api,,warm"] == 3
    assert found["greenroom_claims_total", "api,,cold"] == 1
    assert found["greenroom_claims_total", "api,pool_empty,refused"] == 2
    assert found["greenroom_misses_total", "api,pool_empty"] == 3
    assert found["greenroom_retired_total", "api,released"] == 4


def test_a_pool_without_claims_has_no_ratio() -> None:
    found = samples(Metrics(), status(hit_rate=None, cold_rate=None))
    assert ("greenroom_warm_hit_ratio", "api") not in found


def test_a_pool_that_is_gone_is_not_shown() -> None:
    metrics = Metrics()
    samples(metrics, status())
    assert not [name for name, _ in samples(metrics) if name == "greenroom_containers"]


def test_each_preparation_is_counted_once() -> None:
    metrics = Metrics()
    samples(metrics, status())
    samples(metrics, status())
    found = samples(metrics, status(preparation_s=(2.0, 3.0, 4.0)))
    assert found["greenroom_preparation_seconds_count", "api"] == 4
    assert found["greenroom_preparation_seconds_sum", "api"] == 10


def test_new_timings() -> None:
    assert new_timings((), (1.0,)) == (1.0,)
    assert new_timings((1.0, 2.0, 3.0), (2.0, 3.0, 4.0)) == (4.0,)
    assert new_timings((1.0, 2.0), (1.0, 2.0)) == ()
    assert new_timings((1.0,), (5.0, 6.0)) == (5.0, 6.0)


def test_claims_are_counted_by_warmth() -> None:
    metrics = Metrics()
    metrics.claimed("api", 0.012, warm=True)
    metrics.claimed("api", 3.0, warm=False)
    found = samples(metrics)
    assert found["greenroom_claim_seconds_count", "api,true"] == 1
    assert found["greenroom_claim_seconds_sum", "api,false"] == 3.0


def test_everything_that_is_rendered_is_listed() -> None:
    metrics = Metrics()
    metrics.claimed("api", 0.01, warm=True)
    rendered = {
        family.name
        for family in text_string_to_metric_families(metrics.render([status()]).decode())
    }
    listed = {spec.name.removesuffix("_total") for spec in METRICS}
    assert rendered - {name for name in rendered if name.endswith("_created")} <= listed
