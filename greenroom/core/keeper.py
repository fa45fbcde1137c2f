"""The keeper's own moves on its ledger: facts for the plan, enacting it, and what people see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from greenroom.core import leases, plan, queue
from greenroom.core.config import PoolConfig, changes
from greenroom.core.errors import LiveClaimsError
from greenroom.core.ledger import Build, Ledger, Slot, Streak
from greenroom.core.lifecycle import PREPARING, EndReason, State
from greenroom.core.messages import Ask, CancelClaim, ContainerInput, Retire
from greenroom.core.names import container_workflow_id, snapshot_workflow_id
from greenroom.core.pool_messages import (
    ConfigureReply,
    ConfigureRequest,
    SnapshotInput,
    SuspendReply,
    SuspendRequest,
)

END_PATIENCE_S = 900.0
"""How long saving and removing a container may take before it is asked."""
CREATE_PATIENCE_S = 180.0


def facts(ledger: Ledger, *, looking: bool) -> plan.PoolSnapshot:
    """The frozen facts that ``plan.decide`` rests on."""
    build, config, fresh = ledger.build, ledger.config, ledger.fresh_kind()
    lines = len(config.system) + len(config.build) + len(config.install or ()) + 4
    patience = lines * max(config.timeouts.install, config.timeouts.build) + END_PATIENCE_S
    return plan.PoolSnapshot(
        minimum=config.size.min,
        maximum=config.size.max,
        paused=ledger.paused,
        suspended=ledger.suspended,
        queue=queue.demand(ledger),
        look=ledger.look,
        looking=looking,
        wanted=ledger.wanted.fingerprint if ledger.wanted else None,
        serving=ledger.serving.source.fingerprint if ledger.serving else None,
        building=build.source.fingerprint if build else None,
        build_deadline=build.since + patience if build else None,
        build_asked_at=build.asked_at if build else 0.0,
        build_streak=_streak(ledger.build_streak),
        slot_streak=_streak(ledger.slot_streak),
        slots=tuple(_slot_facts(ledger, slot, fresh) for slot in ledger.slots.values()),
    )


def _streak(streak: Streak) -> plan.StreakFacts:
    return plan.StreakFacts(streak.count, streak.retry_at)


def _slot_facts(ledger: Ledger, slot: Slot, fresh: tuple[str, str] | None) -> plan.SlotFacts:
    timeouts = ledger.config.timeouts
    deadline: float | None = None
    if slot.ending is not None:
        deadline = slot.since + END_PATIENCE_S
    elif slot.state is State.CLAIMED:
        deadline = slot.lease.expires_at if slot.lease else slot.since
    elif slot.state in PREPARING:
        deadline = slot.since + CREATE_PATIENCE_S + timeouts.clone + 4 * timeouts.install
    return plan.SlotFacts(
        container=slot.container,
        state=slot.state,
        since=slot.since,
        fresh=slot.kind == fresh,
        ending=slot.ending is not None,
        deadline=deadline,
        asked_at=slot.asked_at,
    )


def enact(ledger: Ledger, action: plan.Action, now: float, ids: Iterator[str]) -> None:
    """Record the intent of one action and post its messages; ``ids`` yields new container ids.

    ``Look`` is the keeper workflow's own business (an activity) and changes nothing here.
    """
    match action:
        case plan.Look():
            pass
        case plan.BuildSnapshot():
            _start_build(ledger, now)
        case plan.Provision(count):
            for _ in range(count):
                _start_container(ledger, next(ids), now)
        case plan.RetireContainer(container, reason):
            retire(ledger, ledger.slots[container], reason, now)
        case plan.AskContainer(container):
            slot = ledger.slots[container]
            slot.asked_at = now
            slot.sent_seq += 1
            ident = container_workflow_id(ledger.pool, container)
            ledger.post("signal", ident, "ask", Ask(seq=slot.sent_seq))
        case plan.AskBuild():
            if ledger.build is not None:
                ledger.build.asked_at = now
                ident = snapshot_workflow_id(ledger.pool, ledger.build.source.fingerprint)
                ledger.post("signal", ident, "ask", Ask(seq=0))
        case _:
            assert_never(action)


def _start_build(ledger: Ledger, now: float) -> None:
    source = ledger.wanted
    if source is None:
        return
    ledger.build = Build(source=source, since=now)
    ledger.post(
        "start",
        snapshot_workflow_id(ledger.pool, source.fingerprint),
        "Snapshot",
        SnapshotInput(pool=ledger.pool, config=ledger.config, source=source),
    )


def _start_container(ledger: Ledger, container: str, now: float) -> None:
    serving = ledger.serving
    if serving is None:
        return
    ledger.slots[container] = Slot(
        container=container,
        since=now,
        created_at=now,
        fingerprint=serving.source.fingerprint,
        shape=ledger.shape(),
        commit=serving.source.commit,
    )
    ledger.post(
        "start",
        container_workflow_id(ledger.pool, container),
        "Container",
        ContainerInput(
            pool=ledger.pool, container=container, config=ledger.config, snapshot=serving
        ),
    )


def retire(ledger: Ledger, slot: Slot, reason: EndReason, now: float) -> None:
    """Have one container retired; a claimed one saves its work first."""
    if slot.ending is not None:
        return
    slot.ending, slot.since = reason, now
    slot.sent_seq += 1
    ident = container_workflow_id(ledger.pool, slot.container)
    ledger.post("signal", ident, "retire", Retire(seq=slot.sent_seq, reason=reason))


def configure(ledger: Ledger, request: ConfigureRequest) -> ConfigureReply:
    """Take a pool file; a changed one is looked at anew and forgives earlier failures."""
    changed = changes(ledger.config, request.config)
    if request.resume_from_down and ledger.suspended is EndReason.DOWN:
        ledger.suspended = None
        ledger.look = True
        _forgive(ledger)
    if changed:
        ledger.config = request.config
        ledger.generation += 1
        ledger.look = True
        _forgive(ledger)
    return ConfigureReply(created=False, changed=tuple(changed))


def live_claims(ledger: Ledger) -> list[str]:
    """Ids of the claims that somebody holds now (those that are ending are not)."""
    return [
        slot.lease.claim_id
        for slot in ledger.slots.values()
        if slot.lease is not None and slot.ending is None
    ]


def suspend(ledger: Ledger, request: SuspendRequest, now: float) -> SuspendReply:
    """Stop the pool: waiting claims are told, a build is stopped, ready ones retire by the plan.

    Raises LiveClaimsError while claims live, unless forced: then each saves its work and ends.
    """
    live = live_claims(ledger)
    if live and not request.force:
        raise LiveClaimsError(f"pool {ledger.pool} has live claims", claims=",".join(live))
    ledger.suspended = request.reason
    for slot in list(ledger.slots.values()):
        retire(ledger, slot, request.reason, now)
    for waiting in list(ledger.queue):
        leases.cancel(
            ledger, CancelClaim(claim_id=waiting.request.claim_id, reason=request.reason), now
        )
    if ledger.build is not None:
        ident = snapshot_workflow_id(ledger.pool, ledger.build.source.fingerprint)
        ledger.post("signal", ident, "stop", Ask(seq=0))
    return SuspendReply(live_claims=tuple(live), containers=len(ledger.slots))


def look_again(ledger: Ledger, *, force: bool) -> None:
    """A push, or a refresh by hand (``force``: forgive a streak of failures too).

    A push is worth one try at once, even to a pool that has stopped trying.
    """
    ledger.look = True
    if force:
        _forgive(ledger)
    elif ledger.build_streak.count:
        ledger.build_streak = ledger.build_streak.model_copy(update={"retry_at": 0.0})


def _forgive(ledger: Ledger) -> None:
    ledger.build_streak = Streak()
    ledger.slot_streak = Streak()


def resized(config: PoolConfig, minimum: int, maximum: int | None) -> PoolConfig:
    """The pool file with another size; raises ValueError for one that is out of bounds."""
    top = max(config.size.max, minimum) if maximum is None else maximum
    size = {"min": minimum, "max": top}
    return PoolConfig.model_validate({**config.model_dump(mode="json"), "size": size})
