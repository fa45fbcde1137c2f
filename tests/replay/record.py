"""Record the histories that the replay test holds the workflows to.

    python -m tests.replay.record [SCENARIO…]

Run it when a workflow's commands change on purpose, and look at the difference before it is
committed: what is in ``histories/`` is what running workflows of the last version look like.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from temporalio.client import Client

from tests.replay.scenarios import SCENARIOS
from tests.workflows.pools import Pool, running_pool
from tests.workflows.server import dev_server

HISTORIES = Path(__file__).parent / "histories"
IDENTITY = "fake"
"""Instead of process id and host name, in every event."""
_MACHINE = ("stackTrace", "sourceComponentVersion")


def without_machine(value: Any) -> Any:
    """The same JSON without what only tells of the machine that it was recorded on."""
    if isinstance(value, dict):
        return {key: without_machine(item) for key, item in value.items() if key not in _MACHINE}
    if isinstance(value, list):
        return [without_machine(item) for item in value]
    return value


async def history_of(pool: Pool, scenario: str) -> str:
    """Play one scenario on ``pool``; its history as JSON."""
    workflow_id, run_id = await SCENARIOS[scenario].play(pool)
    handle = pool.client.get_workflow_handle(workflow_id, run_id=run_id)
    history = await handle.fetch_history()
    told = without_machine(history.to_json_dict())
    return json.dumps({"workflow_id": workflow_id, **told}, indent=1, sort_keys=True) + "\n"


async def record(client: Client, names: list[str]) -> None:
    for name in names:
        async with running_pool(client, name.replace("_", "-")) as pool:
            text = await history_of(pool, name)
        (HISTORIES / f"{name}.json").write_text(text)
        print(f"{name}: {text.count('eventId')} events")  # noqa: T201 a command tells what it did


async def main(names: list[str]) -> None:
    async with dev_server(identity=IDENTITY) as environment:
        await record(environment.client, names or list(SCENARIOS))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
    sys.stdout.flush()
    os._exit(0)  # the SDK's threads may crash an interpreter that takes itself apart
