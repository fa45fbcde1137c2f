"""Which Temporal server an install uses, our own or the user's, and how to reach either."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.envconfig import ClientConfigProfile, ClientConnectConfig
from temporalio.service import RPCError, RPCStatusCode

from greenroom.core.errors import TemporalError, UsageError
from greenroom.services.embedded_temporal import (
    SEARCH_ATTRIBUTES,
    USUAL_PORT,
    USUAL_UI_PORT,
    free_port,
)
from greenroom.services.settings import Decisions, Settings


def choose(environ: Mapping[str, str], before: Decisions | None) -> Decisions:
    """Which server to use, and for an embedded one on which ports: those of last time if free.

    Raises UsageError when the Temporal client configuration of ``environ`` is broken.
    """
    base = before or Decisions()
    own = _profile(environ)
    if own.address is not None:
        return replace(
            base,
            temporal_address=own.address,
            temporal_namespace=own.namespace or "default",
            temporal_profile=environ.get("TEMPORAL_PROFILE", ""),
            embedded=False,
            temporal_port=0,
            ui_port=0,
            ui_url="",
        )
    remembered = base if base.embedded else Decisions()
    port = free_port(remembered.temporal_port, USUAL_PORT)
    ui_port = free_port(remembered.ui_port, USUAL_UI_PORT)
    return replace(
        base,
        temporal_address=f"127.0.0.1:{port}",
        temporal_namespace=Decisions().temporal_namespace,
        temporal_profile="",
        embedded=True,
        temporal_port=port,
        ui_port=ui_port,
        ui_url=f"http://127.0.0.1:{ui_port}",
    )


def _profile(environ: Mapping[str, str]) -> ClientConfigProfile:
    try:
        return ClientConfigProfile.load(
            environ.get("TEMPORAL_PROFILE") or None, override_env_vars=dict(environ)
        )
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the Temporal client configuration is wrong: {error}") from error


def connect_config(settings: Settings, environ: Mapping[str, str]) -> ClientConnectConfig:
    """Arguments for ``Client.connect``: address, namespace, and TLS and key for a user's own.

    Raises UsageError when the Temporal client configuration is broken.
    """
    decided = settings.decided
    if decided.embedded:
        return {"target_host": decided.temporal_address, "namespace": decided.temporal_namespace}
    profile = _profile({**environ, "TEMPORAL_PROFILE": decided.temporal_profile})
    config = profile.to_client_connect_config()
    config["target_host"] = decided.temporal_address
    config["namespace"] = decided.temporal_namespace
    return config


def wait_ready(settings: Settings, environ: Mapping[str, str], patience_s: float) -> str:
    """Wait until the namespace answers with our search attributes; returns the namespace's id.

    On a user's own server the missing attributes are registered. Raises TemporalError.
    """
    return asyncio.run(_wait_ready(settings, environ, patience_s))


async def _wait_ready(settings: Settings, environ: Mapping[str, str], patience_s: float) -> str:
    deadline = time.monotonic() + patience_s
    config = connect_config(settings, environ)
    while True:
        try:
            client = await Client.connect(**config)
            described = await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=client.namespace)
            )
            await _ensure_attributes(client, register=not settings.embedded)
        except (RuntimeError, RPCError) as error:
            if time.monotonic() > deadline:
                raise _unreachable(settings, error) from error
        else:
            return described.namespace_info.id
        await asyncio.sleep(0.1)


async def _ensure_attributes(client: Client, *, register: bool) -> None:
    listed = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=client.namespace)
    )
    missing = [name for name in SEARCH_ATTRIBUTES if name not in listed.custom_attributes]
    if not missing:
        return
    if not register:
        raise RuntimeError(f"search attributes not registered yet: {', '.join(missing)}")
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    try:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace, search_attributes=dict.fromkeys(missing, keyword)
            )
        )
    except RPCError as error:
        if error.status in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED}:
            raise TemporalError(
                "the Temporal server does not let this client register search attributes; have "
                f"them made as Keyword in namespace {client.namespace}: {', '.join(missing)}"
            ) from error
        if error.status != RPCStatusCode.ALREADY_EXISTS:
            raise


def _unreachable(settings: Settings, error: Exception) -> TemporalError:
    decided = settings.decided
    if isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND:
        return TemporalError(
            f"the Temporal server at {decided.temporal_address} has no namespace "
            f"{decided.temporal_namespace}: create it, or set TEMPORAL_NAMESPACE"
        )
    where = "our own" if decided.embedded else "TEMPORAL_ADDRESS or the profile names it"
    return TemporalError(
        f"Temporal at {decided.temporal_address} ({where}) does not answer: {error}"
    )
