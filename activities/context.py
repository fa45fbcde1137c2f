"""What every activity of a host holds: its settings, its engine, its gate and its opener."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from activities.boundary import check_cancelled
from activities.engine import Engine
from greenroom.core.paths import StatePaths
from greenroom.gate.control import GateClient
from greenroom.gate.opener_client import OpenerClient
from greenroom.services.settings import Settings


@dataclass(frozen=True)
class HostContext:
    """Everything by which an activity reaches its host.

    ``namespace_id`` is the Temporal namespace's id (not its name), ``client`` the worker's own;
    both are missing where nothing is made, as in the API.
    """

    settings: Settings
    engine: Engine
    gate: GateClient
    opener: OpenerClient
    namespace_id: str = ""
    client: Client | None = None
    room: threading.Semaphore = field(
        default_factory=lambda: threading.Semaphore(max(1, (os.cpu_count() or 2) // 2))
    )

    @property
    def paths(self) -> StatePaths:
        return self.settings.paths

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for one's turn at heavy work of the engine: half of the CPUs stay for claims.

        Raises CancelledError when the activity is ended meanwhile.
        """
        while not self.room.acquire(timeout=0.5):
            check_cancelled()
        try:
            yield
        finally:
            self.room.release()


def open_context(
    settings: Settings, namespace_id: str = "", client: Client | None = None
) -> HostContext:
    """The context of this host; connects to nothing yet. Raises UsageError."""
    return HostContext(
        settings=settings,
        engine=Engine(settings.docker_host),
        gate=GateClient(settings.paths),
        opener=OpenerClient(settings.paths),
        namespace_id=namespace_id,
        client=client,
    )


async def find_namespace_id(client: Client) -> str:
    """The id of the client's namespace. Raises temporalio.service.RPCError."""
    request = DescribeNamespaceRequest(namespace=client.namespace)
    answer = await client.workflow_service.describe_namespace(request)
    return answer.namespace_info.id
