"""Pools: applying their files, looking at them, and stopping them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import yaml
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from greenroom.api.state import ApiState, State
from greenroom.core.config import PoolConfig
from greenroom.core.errors import GreenroomError, NotFoundError, UsageError
from greenroom.core.lifecycle import EndReason
from greenroom.core.names import check_pool_name
from greenroom.core.pool_messages import (
    ConfigureReply,
    PoolStatus,
    ResizeRequest,
    SuspendReply,
    SuspendRequest,
)
from greenroom.core.records import Done

router = APIRouter(prefix="/v1/pools")


class ApplyBody(BaseModel):
    """A pool file as ``greenroom.poolfile`` read it."""

    model_config = ConfigDict(extra="forbid")

    config: PoolConfig
    resume_from_down: bool = False


@router.get("")
async def list_pools(state: State) -> list[PoolStatus]:
    """Every pool's status, by name."""
    return await statuses(state)


@router.get("/{pool}")
async def show_pool(pool: str, state: State) -> PoolStatus:
    """One pool's status. Raises NotFoundError."""
    return await state.client.status(check_pool_name(pool))


@router.put("/{pool}")
async def apply(pool: str, body: ApplyBody, state: State) -> ConfigureReply:
    """Give a pool its file, making the pool where there is none; kept for the next ``up``."""
    if body.config.name != pool:
        raise UsageError(f"the pool file names {body.config.name}, not {pool}")
    reply = await state.client.configure(body.config, resume_from_down=body.resume_from_down)
    await asyncio.to_thread(_keep, state, body.config)
    return reply


@router.delete("/{pool}")
async def delete(pool: str, state: State, force: bool = False) -> SuspendReply:  # noqa: FBT001, FBT002
    """End a pool; its keeper ends when its last container is gone. Raises LiveClaimsError."""
    request = SuspendRequest(reason=EndReason.DELETED, force=force)
    reply = await state.client.suspend(check_pool_name(pool), request)
    _kept_file(state, pool).unlink(missing_ok=True)
    return reply


@router.post("/{pool}/suspend")
async def suspend(pool: str, body: SuspendRequest, state: State) -> SuspendReply:
    """Retire everything, for ``down``. Raises LiveClaimsError."""
    return await state.client.suspend(check_pool_name(pool), body)


@router.post("/{pool}/pause")
async def pause(pool: str, state: State) -> Done:
    """Prepare nothing new."""
    await state.client.pause(check_pool_name(pool))
    return Done()


@router.post("/{pool}/resume")
async def resume(pool: str, state: State) -> Done:
    """End ``pause``."""
    await state.client.resume(check_pool_name(pool))
    return Done()


@router.post("/{pool}/resize")
async def resize(pool: str, body: ResizeRequest, state: State) -> ConfigureReply:
    """Change the pool's size; the kept pool file changes with it."""
    reply = await state.client.resize(check_pool_name(pool), body)
    await asyncio.to_thread(_keep_size, state, pool, body)
    return reply


@router.post("/{pool}/refresh")
async def refresh(pool: str, state: State) -> Done:
    """Look at the repository now, and forgive earlier failures."""
    await state.client.refresh(check_pool_name(pool))
    return Done()


async def known_pools(state: ApiState) -> list[str]:
    """Names of the caller's pools: those in Temporal, and those kept here, maybe not listed yet."""
    kept = await asyncio.to_thread(lambda: [path.stem for path in state.paths.pools.glob("*.yaml")])
    return sorted(filter(state.grant.sees, {*await state.client.pools(), *kept}))


async def statuses(state: ApiState) -> list[PoolStatus]:
    """The status of every pool that has a keeper, by name. Raises TemporalError."""
    names = await known_pools(state)
    answers = await asyncio.gather(
        *(state.client.status(name) for name in names), return_exceptions=True
    )
    found = []
    for answer in answers:
        if isinstance(answer, PoolStatus):
            found.append(answer)
        elif not isinstance(answer, NotFoundError):
            raise answer
    return found


def _kept_file(state: ApiState, pool: str) -> Path:
    return state.paths.pools / f"{pool}.yaml"


def _keep(state: ApiState, config: PoolConfig) -> None:
    state.paths.pools.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(
        config.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True
    )
    target = _kept_file(state, config.name)
    fresh = target.with_name(f".{config.name}.{os.getpid()}")
    fresh.write_text(f"# Kept by `greenroom apply`, for the next `greenroom up`.\n{text}")
    fresh.replace(target)


def _keep_size(state: ApiState, pool: str, body: ResizeRequest) -> None:
    try:
        kept = yaml.safe_load(_kept_file(state, pool).read_text())
    except FileNotFoundError:
        return  # made elsewhere: nothing is kept here
    size = {**kept.get("size", {}), "min": body.min}
    size["max"] = body.max if body.max is not None else max(size.get("max", 10), body.min)
    try:
        _keep(state, PoolConfig.model_validate({**kept, "size": size}))
    except ValueError as error:
        raise GreenroomError(f"the kept file of pool {pool} is broken: {error}") from error
