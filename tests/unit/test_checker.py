"""The invariant checker finds each seeded violation, and nothing in a clean long run."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from greenroom.core.slotfile import HostLease, SlotRecord
from tests.chaos import events as ev
from tests.chaos.checker import END_ORDER, PROPERTIES, check
from tests.chaos.recorder import Recorder

T = 1_750_000_000.0


def life(n: int, at: float, **how: object) -> list[ev.Event]:
    """A whole clean life of container ``k{n}`` that claim ``c{n}`` used, 40 s long."""
    k, c = f"k{n}", f"c{n}"
    events: list[ev.Event] = [
        ev.WorkflowOpen(at, k),
        ev.ContainerStarted(at + 1, k),
        ev.Kept(at + 1, "slot_file", k, k, True),
        ev.Kept(at + 1, "listener", k, k, True),
        ev.ContainerReady(at + 5, k),
        ev.Granted(at + 10, "api", c, k, n, at + 3600),
        ev.Granted(at + 10.1, "api", c, k, n, at + 3600),
        ev.ExecOk(at + 11, c, k, n),
        ev.Reached(at + 12, k, "api.example.com"),
        ev.WorkWritten(at + 13, c, k),
        ev.Extended(at + 14, c, n, at + 7200),
        ev.Released(at + 20, c, k, n),
        ev.ExecRefused(at + 21, c, k, n),
    ]
    events += [ev.EndStep(at + 20 + i, k, step) for i, step in enumerate(END_ORDER)]
    events += [
        ev.ContainerDied(at + 23, k),
        ev.Saved(at + 24, c, k, "saved"),
        ev.ContainerRemoved(at + 25, k),
        ev.Kept(at + 26, "listener", k, k, False),
        ev.Kept(at + 26, "slot_file", k, k, False),
        ev.WorkflowClosed(at + 30, k),
    ]
    return events


def without(events: list[ev.Event], *kinds: type[ev.Event]) -> list[ev.Event]:
    return [event for event in events if not isinstance(event, kinds)]


def numbers(events: list[ev.Event]) -> set[int]:
    return {violation.number for violation in check(events)}


def test_a_clean_long_run_passes_in_any_order_of_recording() -> None:
    events: list[ev.Event] = []
    for n in range(200):
        events += life(n, T + n * 3)
        if n % 50 == 10:
            events += [ev.PoolBelowTarget(T + n * 3, "api"), ev.Fault(T + n * 3, f"kill-{n}")]
            events += [ev.FaultEnded(T + n * 3 + 5, f"kill-{n}")]
            events += [ev.PoolAtTarget(T + n * 3 + 40, "api")]
    events.append(ev.Finished(T + 5000))
    random.Random(1).shuffle(events)  # noqa: S311 a fixed order, not a secret
    assert check(events) == []


def test_a_corpse_is_replaced_under_the_same_claim() -> None:
    first = [ev.Granted(T, "api", "c", "k1", 1, T + 100), ev.ContainerDied(T - 1, "k1")]
    assert check([*first, ev.Granted(T + 1, "api", "c", "k2", 2, T + 100)]) == []


def test_one_that_was_made_anew_before_its_grant_lives_on() -> None:
    first = [ev.ContainerStarted(T - 3, "k1"), ev.ContainerRemoved(T - 2, "k1")]
    assert check([*first, *life(1, T)]) == []
    again = [*first, *life(1, T), ev.ContainerDied(T + 5, "k1")]
    assert numbers(again) == {2}


SEEDED: list[tuple[int, str, list[ev.Event]]] = [
    (
        1,
        "a container is granted to two claims",
        [*life(1, T), ev.Granted(T + 15, "api", "other", "k1", 9, T + 3600)],
    ),
    (
        1,
        "a claim gets two live containers",
        [
            ev.Granted(T, "api", "c", "k1", 1, T + 100),
            ev.Granted(T + 1, "api", "c", "k2", 2, T + 100),
        ],
    ),
    (
        1,
        "one token for two grants",
        [
            ev.Granted(T, "api", "c1", "k1", 1, T + 100),
            ev.Granted(T + 1, "api", "c2", "k2", 1, T + 100),
        ],
    ),
    (2, "a command runs after the release", [*life(1, T), ev.ExecOk(T + 22, "c1", "k1", 1)]),
    (
        2,
        "a command runs after the lease's time",
        [ev.Granted(T, "api", "c", "k", 1, T + 10), ev.ExecOk(T + 10.5, "c", "k", 1)],
    ),
    (
        2,
        "the gate lets something out after the end",
        [*life(1, T), ev.Reached(T + 21, "k1", "api.example.com")],
    ),
    (2, "a live lease is refused", [*life(1, T), ev.ExecRefused(T + 15, "c1", "k1", 1)]),
    (
        2,
        "a lease is never ended",
        [ev.Granted(T, "api", "c", "k", 1, T + 10), ev.Finished(T + 200)],
    ),
    (
        3,
        "a container stays after its workflow",
        [*without(life(1, T), ev.ContainerRemoved), ev.Finished(T + 500)],
    ),
    (
        3,
        "a container is swept too late",
        [*without(life(1, T), ev.ContainerRemoved), ev.ContainerRemoved(T + 95, "k1")],
    ),
    (
        3,
        "a listener stays although its workflow never ran",
        [ev.Kept(T, "listener", "l", "k", True), ev.Finished(T + 100)],
    ),
    (3, "another install's container is swept", [ev.Swept(T, "k", "not_found", own=False)]),
    (
        3,
        "something is swept after an error",
        [ev.WorkflowOpen(T, "k"), ev.WorkflowClosed(T + 1, "k"), ev.Swept(T + 2, "k", "error")],
    ),
    (
        3,
        "something is swept before its lease's end",
        [
            ev.WorkflowOpen(T, "k"),
            ev.WorkflowClosed(T + 1, "k"),
            ev.Swept(T + 2, "k", "closed", lease_end=T + 60),
        ],
    ),
    (
        3,
        "something is swept while its workflow runs",
        [ev.WorkflowOpen(T, "k"), ev.Swept(T + 2, "k", "closed")],
    ),
    (4, "a used container is offered again", [*life(1, T), ev.ContainerReady(T + 15, "k1")]),
    (4, "a used container is started again", [*life(1, T), ev.ContainerStarted(T + 24, "k1")]),
    (
        5,
        "the pool stays below its target",
        [ev.PoolBelowTarget(T, "api"), ev.Fault(T, "x"), ev.FaultEnded(T, "x"), ev.Finished(T + 9)],
    ),
    (
        5,
        "the pool takes too long",
        [ev.PoolBelowTarget(T, "api"), ev.PoolAtTarget(T + 1000, "api")],
    ),
    (
        5,
        "a person repairs the pool",
        [
            ev.PoolBelowTarget(T, "api"),
            ev.Intervened(T + 1, "docker rm"),
            ev.PoolAtTarget(T + 2, "api"),
        ],
    ),
    (6, "work is not saved", without(life(1, T), ev.Saved)),
    (
        6,
        "work is called clean",
        [*without(life(1, T), ev.Saved), ev.Saved(T + 24, "c1", "k1", "clean")],
    ),
    (
        6,
        "unsaved work is removed",
        [*without(life(1, T), ev.Saved), ev.Saved(T + 24, "c1", "k1", "unsaved")],
    ),
    (6, "it is stopped while its gate is open", [ev.EndStep(T, "k", "stopped")]),
    (
        6,
        "it is killed before its token is refused",
        [
            ev.EndStep(T, "k", "killed"),
            ev.EndStep(T + 1, "k", "token_refused"),
            ev.EndStep(T + 1, "k", "gate_closed"),
        ],
    ),
]


@pytest.mark.parametrize(("number", "story", "events"), SEEDED, ids=[s for _, s, _ in SEEDED])
def test_each_seeded_violation_is_found(number: int, story: str, events: list[ev.Event]) -> None:
    assert number in numbers(events), story


def test_every_property_has_seeded_violations() -> None:
    assert {number for number, _, _ in SEEDED} == set(range(1, len(PROPERTIES) + 1))


def test_a_fault_gives_time_to_sweep_until_it_ends() -> None:
    events = without(life(1, T), ev.ContainerRemoved)
    events += [ev.ContainerRemoved(T + 200, "k1"), ev.Fault(T + 25, "worker")]
    assert 3 in numbers([*events, ev.FaultEnded(T + 100, "worker")])
    assert numbers([*events, ev.FaultEnded(T + 150, "worker")]) == set()


def test_engine_events_and_lease_files_are_recorded(tmp_path: Path) -> None:
    recorder = Recorder()
    labels = {"greenroom.kind": "slot", "greenroom.container": "K1"}
    for kind, labelled in (("start", labels), ("exec_die", labels), ("die", {}), ("die", labels)):
        told = {"Action": kind, "timeNano": int(T * 1e9), "Actor": {"Attributes": labelled}}
        recorder.engine_event(json.dumps(told))
    assert recorder.events == (ev.ContainerStarted(T, "K1"), ev.ContainerDied(T, "K1"))

    lease = HostLease(claim_id="c", token=3, expires_at=T, ended=True)
    record = SlotRecord(container="K1", pool="api", lease=lease)
    (tmp_path / "K1.json").write_text(record.model_dump_json())
    (tmp_path / "B1.json").write_text(
        record.model_copy(update={"kind": "builder"}).model_dump_json()
    )
    recorder.slot_files(tmp_path)
    (tmp_path / "K1.json").unlink()
    recorder.slot_files(tmp_path)
    kinds = [type(event).__name__ for event in recorder.events[2:]]
    assert kinds == ["Kept", "Granted", "EndStep", "Kept"]


def test_the_recorders_fixture_lets_a_clean_test_pass(checked: Recorder) -> None:
    checked.record(*life(1, T), ev.Finished(T + 100))
