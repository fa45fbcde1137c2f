"""What people and programs see of a pool: one rendering of the ledger for all of them."""

from __future__ import annotations

from collections import Counter

from greenroom.core import plan, queue
from greenroom.core.ledger import Ledger, Slot
from greenroom.core.lifecycle import State
from greenroom.core.pool_messages import Counts, PoolStatus, RefreshView, SlotView


def tally(ledger: Ledger) -> Counts:
    """Containers by state; ``stale`` are those ready that a fresh one will replace."""
    by_state = Counter(slot.state for slot in ledger.slots.values())
    fresh = ledger.fresh_kind()
    ready = [s for s in ledger.slots.values() if s.state is State.READY and s.ending is None]
    return Counts(
        creating=by_state[State.CREATING],
        cloning=by_state[State.CLONING],
        installing=by_state[State.INSTALLING],
        ready=len(ready),
        claimed=by_state[State.CLAIMED],
        stale=sum(slot.kind != fresh for slot in ready),
        retired_total=sum(ledger.counters.retired.values()),
    )


def status(
    ledger: Ledger, now: float, *, looking: bool, with_containers: bool = True
) -> PoolStatus:
    """What people and programs see of the pool; without its containers it is quick to make."""
    config, serving, totals = ledger.config, ledger.serving, ledger.counters
    misses = sum(totals.misses.values())
    asked = totals.warm + misses
    return PoolStatus(
        pool=ledger.pool,
        repo=config.repo,
        ref=config.ref,
        commit=serving.source.commit if serving else "",
        fingerprint=serving.source.fingerprint if serving else "",
        target=plan.target(config.size.min, config.size.max, queue.demand(ledger)),
        max=config.size.max,
        paused=ledger.paused,
        suspended=str(ledger.suspended or ""),
        counts=tally(ledger),
        queue=len(ledger.queue),
        containers=tuple(map(_slot_view, ledger.slots.values())) if with_containers else (),
        hit_rate=totals.warm / asked if asked else None,
        cold_rate=misses / asked if asked else None,
        claims_warm=totals.warm,
        claims_cold=totals.cold,
        claims_refused=totals.refused,
        misses=totals.misses,
        retired=totals.retired,
        refresh=_refresh_view(ledger, looking=looking),
        failure=ledger.slot_streak.failure or ledger.build_streak.failure,
        failure_streak=max(ledger.slot_streak.count, ledger.build_streak.count),
        retry_at=ledger.slot_streak.retry_at or ledger.build_streak.retry_at,
        snapshot=serving,
        preparation_s=tuple(ledger.timings),
        generation=ledger.generation,
        at=now,
        waiting=tuple(queue.views(ledger, now)) if with_containers else (),
    )


def _slot_view(slot: Slot) -> SlotView:
    lease = slot.lease
    return SlotView(
        container=slot.container,
        state=slot.state,
        host=slot.host,
        since=slot.since,
        fingerprint=slot.fingerprint,
        commit=slot.commit,
        claim_id=lease.claim_id if lease else "",
        holder=lease.holder if lease else "",
        expires_at=lease.expires_at if lease else 0.0,
        held=lease is not None and lease.held,
        ending=str(slot.ending or ""),
        group=lease.group if lease else "",
    )


def _refresh_view(ledger: Ledger, *, looking: bool) -> RefreshView:
    wanted, build, streak = ledger.wanted, ledger.build, ledger.build_streak
    fresh = ledger.fresh_kind()
    rolling = any(s.state is State.READY and s.kind != fresh for s in ledger.slots.values())
    state = (
        "resolving"
        if looking
        else "building"
        if build
        else "failed"
        if streak.count
        else "rolling"
        if rolling
        else "idle"
    )
    return RefreshView(
        state=state,
        commit=wanted.commit if wanted else "",
        fingerprint=wanted.fingerprint if wanted else "",
        since=build.since if build else 0.0,
        error=streak.failure,
        retry_at=streak.retry_at,
        attempts=streak.count,
    )
