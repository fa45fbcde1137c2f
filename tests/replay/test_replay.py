"""Today's workflows replay the recorded lives of yesterday's, and the gate can fail."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from tests.replay.changed_workflows import (
    ContainerAsItIs,
    ContainerThatWaits,
    SnapshotThatLooksTwice,
    WaitThatTells,
)
from tests.replay.scenarios import SCENARIOS
from tests.workflows.workers import WORKFLOWS

HISTORIES = Path(__file__).parent / "histories"
NAMES = sorted(SCENARIOS)


def text_of(name: str) -> str:
    return (HISTORIES / f"{name}.json").read_text()


def events_of(name: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(text_of(name))["events"]
    return events


def history_of(name: str) -> WorkflowHistory:
    told = json.loads(text_of(name))
    return WorkflowHistory.from_json(told.pop("workflow_id"), told)


def words_of(event: dict[str, Any]) -> set[str]:
    """``event type``, and ``event type:name`` for each name that the event carries."""
    kind = event["eventType"].removeprefix("EVENT_TYPE_")
    (told,) = [value for key, value in event.items() if key.endswith("Attributes")] or [{}]
    names = [
        told.get("activityType", {}).get("name"),
        told.get("workflowType", {}).get("name"),
        told.get("signalName"),
        told.get("acceptedRequest", {}).get("input", {}).get("name"),
    ]
    return {kind, *(f"{kind}:{name}" for name in names if name)}


def test_every_scenario_has_its_history_and_nothing_else_is_there() -> None:
    assert sorted(path.stem for path in HISTORIES.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_history_is_closed_and_contains_its_scenario(name: str) -> None:
    events = events_of(name)
    words = set().union(*(words_of(event) for event in events))
    assert SCENARIOS[name].contains <= words, SCENARIOS[name].contains - words
    assert SCENARIOS[name].closed in words_of(events[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_history_tells_nothing_of_the_machine_that_it_was_recorded_on(name: str) -> None:
    text = text_of(name)
    assert set(re.findall(r'"identity": "([^"]*)"', text)) <= {"fake", "history-service"}
    assert "stackTrace" not in text
    assert not re.findall(r"/(?:home|root|work|usr|tmp|var)/", text)
    assert not re.findall(r"\b\d+@", text)


@pytest.mark.parametrize("name", NAMES)
async def test_todays_workflows_replay_it(name: str) -> None:
    replayer = Replayer(workflows=WORKFLOWS, data_converter=pydantic_data_converter)
    await replayer.replay_workflow(history_of(name))


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (ContainerThatWaits, "container_claimed_released"),
        (ContainerThatWaits, "container_failed"),
        (SnapshotThatLooksTwice, "snapshot_built"),
        (WaitThatTells, "wait_timed_out"),
    ],
)
async def test_a_changed_workflow_is_found_out(changed: type, name: str) -> None:
    replayer = Replayer(workflows=[changed], data_converter=pydantic_data_converter)
    with pytest.raises(NondeterminismError):
        await replayer.replay_workflow(history_of(name))


async def test_a_subclass_that_changes_nothing_is_not_found_out() -> None:
    replayer = Replayer(workflows=[ContainerAsItIs], data_converter=pydantic_data_converter)
    await replayer.replay_workflow(history_of("container_claimed_released"))
