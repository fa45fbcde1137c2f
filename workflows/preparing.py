"""From nothing to a ready container."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from greenroom.core.lifecycle import EndReason, State
    from workflows import failures
    from workflows.life import Life, now

SEEN = timedelta(seconds=1)
"""A step of preparing that takes longer is told to the keeper while it goes on."""


async def prepare(life: Life) -> bool:
    """Create, clone, install; False when it failed or was ended on the way."""
    try:
        await _create(life)
        for name, limit in _steps(life):
            if life.end is not None:
                return False
            await _interruptible(life, name, limit)
            life.state = State.INSTALLING if name == "clone_in" else State.READY
    except ActivityError as error:
        if life.end is None:
            life.failure = failures.from_activity(error, life.state, now())
            life.end = EndReason.FAILED
        return False
    if life.end is None:
        life.tell_soon("installed")
        workflow.upsert_search_attributes(life.attributes(State.READY))
    return life.end is None


def _steps(life: Life) -> tuple[tuple[str, float], ...]:
    timeouts, sync = life.start.config.timeouts, life.start.snapshot.source.sync
    return (
        ("clone_in", timeouts.clone),
        ("install_in", timeouts.install * max(1, len(sync))),
    )


async def _create(life: Life) -> None:
    life.host = (await life.on_host.place()).host
    life.docker_id = (await life.on_host.create()).docker_id
    life.state = State.CLONING


async def _interruptible(life: Life, name: str, limit: float) -> None:
    """Run one step; being ended cancels it. Raises ActivityError.

    The keeper hears of a step that takes long enough to be seen: two Signals less for each
    container whose snapshot is up to date.
    """
    step = life.on_host.begin(name, limit)
    over = lambda: step.done() or life.end is not None  # noqa: E731
    try:
        await workflow.wait_condition(over, timeout=SEEN, timeout_summary=f"a long {name}")
    except TimeoutError:
        life.tell_soon("created" if life.state is State.CLONING else "cloned")
    await life.unless_ended(step)
