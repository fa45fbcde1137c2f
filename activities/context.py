"""What every activity of a host holds: its settings, its engine, its gate and its opener."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

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

    @property
    def paths(self) -> StatePaths:
        return self.settings.paths


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
