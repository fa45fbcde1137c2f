"""Tasks by HTTP: one command in a container of its own, which needs nobody to wait for it.

Variables and secrets that come in the clear are sealed here before anything reaches Temporal.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from greenroom.api.pools import known_pools
from greenroom.api.state import ApiState, PersonalParts, State, WantedSecrets
from greenroom.client.task_client import FoundTask, cancel_task, find_task, start_task
from greenroom.core.errors import NotFoundError, UsageError
from greenroom.core.names import check_claim_id, check_pool_name, task_workflow_id, ulid
from greenroom.core.sealed import VARIABLE, Content
from greenroom.core.task_messages import TAIL_BYTES, TaskInput, TaskRetry

router = APIRouter(prefix="/v1")
LONGEST_WAIT_S = 60.0


class TaskBody(BaseModel):
    """The body of a new Task; see ``TaskInput``. An empty ``claim_id`` makes a new one."""

    model_config = ConfigDict(extra="forbid")

    claim_id: str = ""
    command: tuple[str, ...] = Field(min_length=1)
    holder: str = ""
    ttl_s: float = 0.0
    wait_s: float = Field(3600.0, gt=0)
    timeout_s: float = Field(0.0, ge=0)
    labels: dict[str, str] = Field(default_factory=dict)
    priority: int = Field(0, ge=-100, le=100)
    env: dict[str, str] = Field(default_factory=dict)
    secrets: dict[str, str] = Field(default_factory=dict)
    sealed: dict[str, str] = Field(default_factory=dict)
    host_secrets: tuple[str, ...] = ()
    workdir: str = ""
    save: bool = True
    attempts: int = Field(1, ge=1, le=20)


class TaskDocument(BaseModel):
    """A Task as people and programs see it. ``phase`` is empty when it does not run any more."""

    claim_id: str
    pool: str
    workflow: str
    state: str
    phase: str = ""
    container: str = ""
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    stdout_tail: str = ""
    stderr_tail: str = ""


class KeyDocument(BaseModel):
    """What values for a pool are sealed with."""

    pool: str
    key: str


@router.get("/pools/{pool}/key")
async def show_key(pool: str, state: State) -> KeyDocument:
    """The pool's public key. Raises NotFoundError."""
    await state.client.status(check_pool_name(pool))
    key = await asyncio.to_thread(state.host.public_key, pool)
    return KeyDocument(pool=pool, key=key.text)


@router.post("/pools/{pool}/tasks")
async def start(pool: str, body: TaskBody, state: State) -> TaskDocument:
    """Start a Task; answers at once. Raises NotFoundError, UsageError, ConflictError."""
    await state.client.status(check_pool_name(pool))
    claim_id = check_claim_id(body.claim_id or ulid(time.time(), int.from_bytes(os.urandom(10))))
    sealed = await asyncio.to_thread(_sealed, state, pool, claim_id, body)
    fields = body.model_dump(include=set(TaskInput.model_fields) - {"env", "sealed"})
    retry = TaskRetry(attempts=body.attempts)
    asked = TaskInput(**{**fields, "pool": pool, "claim_id": claim_id}, sealed=sealed, retry=retry)
    workflow = await start_task(state.client.temporal, asked)
    return TaskDocument(
        claim_id=claim_id, pool=pool, workflow=workflow, state="running", phase="waiting"
    )


@router.get("/tasks/{ident}")
async def show(ident: str, state: State, wait_s: float = 0.0, pool: str = "") -> TaskDocument:
    """A Task by its claim, after a wait of at most 60 s for its end. Raises NotFoundError."""
    if not 0 <= wait_s <= LONGEST_WAIT_S:
        raise UsageError(f"wait_s {wait_s:g} is not within 0 and {LONGEST_WAIT_S:g}")
    found, document = await _found(state, ident, pool)
    if wait_s and found.status is not None:
        later = await find_task(state.client.temporal, found.workflow, wait_s=wait_s)
        document = await asyncio.to_thread(_document, state, later or found)
    return document


@router.delete("/tasks/{ident}")
async def cancel(ident: str, state: State, pool: str = "") -> TaskDocument:
    """Cancel a Task: its command is killed, its work saved, its lease ended."""
    found, document = await _found(state, ident, pool)
    await cancel_task(state.client.temporal, found.workflow)
    return document


async def _found(state: ApiState, claim_id: str, pool: str) -> tuple[FoundTask, TaskDocument]:
    """The Task, if it is of one of the caller's pools. Raises NotFoundError, UsageError."""
    check_claim_id(claim_id)
    for name in [pool] if pool else await known_pools(state):
        workflow = task_workflow_id(check_pool_name(name), claim_id)
        found = await find_task(state.client.temporal, workflow)
        if found is None:
            continue
        document = await asyncio.to_thread(_document, state, found)
        if state.grant.sees(name) and state.grant.sees(document.pool):
            return found, document
    raise NotFoundError(f"no task {claim_id}")


def _sealed(state: ApiState, pool: str, claim_id: str, body: TaskBody) -> dict[str, str]:
    """What came sealed, and what came in the clear, for this claim alone."""
    clear = {**body.env, **body.secrets}
    for name in clear:
        if not VARIABLE.fullmatch(name):
            raise UsageError(f"{name!r} cannot name a variable; use letters, digits and _")
    wanted = WantedSecrets(pool, claim_id, body.sealed, body.host_secrets)
    if body.sealed or body.host_secrets:  # what is wrong with them is better told now
        state.host.fetch(wanted, PersonalParts(env=body.env, secrets=body.secrets))
    if not clear:
        return body.sealed
    bound = claim_id if body.attempts == 1 else ""  # a later attempt has another claim id
    key = state.host.public_key(pool)

    def seal(name: str, value: str) -> str:
        secret = name in body.secrets
        return key.seal(Content(pool=pool, name=name, value=value, secret=secret, claim_id=bound))

    return {**{name: seal(name, value) for name, value in clear.items()}, **body.sealed}


def _document(state: ApiState, found: FoundTask) -> TaskDocument:
    claim_id, pool = _names(found)
    document = TaskDocument(
        claim_id=claim_id, pool=pool, workflow=found.workflow, state=found.state
    )
    if found.error is not None:
        error = found.error
        document.error = {"error": error.code, "message": error.message, "details": error.details}
    if found.result is not None:
        document.result = found.result.model_dump(mode="json")
        document.container = found.result.container
        document.stdout_tail = found.result.stdout_tail
        document.stderr_tail = found.result.stderr_tail
    if found.status is not None:
        lease = found.status.lease
        document.phase = found.status.phase
        document.container = lease.container if lease else ""
        folder = state.paths.task(pool, claim_id)
        document.stdout_tail = _tail(folder / "stdout")
        document.stderr_tail = _tail(folder / "stderr")
    return document


def _names(found: FoundTask) -> tuple[str, str]:
    """Claim and pool: as the Task says, else by its workflow's id."""
    told = found.status or found.result
    if told is not None:
        return told.claim_id, told.pool
    pool, _, claim_id = found.workflow.removeprefix("greenroom/task/").partition("/")
    return claim_id, pool


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as source:
            source.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return source.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
