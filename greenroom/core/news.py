"""What the keeper learns, applied to its ledger: news of containers, snapshots and the source."""

from __future__ import annotations

from greenroom.core import leases
from greenroom.core.grants import tell_ended
from greenroom.core.ledger import TIMINGS, Ledger, OutboxEntry, Slot, Streak, bump
from greenroom.core.lifecycle import PREPARING, EndReason, Event, State
from greenroom.core.messages import Ask, ContainerNews, ReleaseRequest, Retire
from greenroom.core.names import container_workflow_id, snapshot_workflow_id
from greenroom.core.plan import backoff
from greenroom.core.pool_messages import SnapshotNews
from greenroom.core.records import Failure, Source

CANCELLED_STEP = "cancelled"
"""``Failure.step`` of a build that was stopped on purpose; not a failure of the recipe."""

IMAGE_GONE_STEP = "snapshot"
"""``Failure.step`` of a container whose snapshot's image somebody has removed."""

_ON_THE_WAY: tuple[tuple[State, Event], ...] = (
    (State.CREATING, Event.CREATED),
    (State.CLONING, Event.CLONED),
    (State.INSTALLING, Event.INSTALLED),
)
_BROKEN = (EndReason.FAILED, EndReason.DIED, EndReason.LOST, EndReason.STUCK)
_OF_ITS_OWN = (
    EndReason.FAILED,
    EndReason.DIED,
    EndReason.EXPIRED,
    EndReason.ABANDONED,
    EndReason.REFUSED,
)
"""Ends that a container knows better than the keeper, which may have meant another one.

REFUSED: what the claim brought was wrong, not the container.
"""
_REACHES = {"created": State.CLONING, "cloned": State.INSTALLING, "installed": State.READY}


def hear_container(ledger: Ledger, news: ContainerNews, now: float) -> None:
    """Apply one piece of a container's news; older or unknown ones change nothing.

    Signals arrive out of order, so each piece says what has been reached, and whatever was
    skipped on the way is made up for.
    """
    slot = ledger.slots.get(news.container)
    if slot is None:
        _hear_stranger(ledger, news)
        return
    if news.kind == "retired":
        _retired(ledger, slot, news, now)
        return
    if news.seq <= slot.seen_seq:
        return
    slot.seen_seq = news.seq
    slot.host, slot.docker_id = news.host or slot.host, news.docker_id or slot.docker_id
    if news.kind in _REACHES:
        _reach(ledger, slot, _REACHES[news.kind], now)
    elif news.kind == "corpse":
        leases.regrant(ledger, slot, now)
    elif news.kind == "ending":
        slot.ending, slot.since = slot.ending or news.reason or EndReason.LOST, now
    if news.expires_at and slot.lease is not None:
        expires_at = max(slot.lease.expires_at, news.expires_at)
        held = slot.lease.held or news.held
        slot.lease = slot.lease.model_copy(update={"expires_at": expires_at, "held": held})
    leases.grant_waiting(ledger, now)


def _hear_stranger(ledger: Ledger, news: ContainerNews) -> None:
    """A container that the ledger does not have: nobody would ever use it, so it must go.

    One that says it has a lease keeps it to its end.
    """
    if news.kind in (*_REACHES, "alive") and not news.expires_at:
        ident = container_workflow_id(ledger.pool, news.container)
        ledger.post("signal", ident, "retire", Retire(seq=1, reason=EndReason.LOST))


def _reach(ledger: Ledger, slot: Slot, wanted: State, now: float) -> None:
    for state, event in _ON_THE_WAY:
        if state is wanted:
            break
        if slot.state is state:
            slot.advance(event, now)
    if wanted is State.READY and slot.state is State.READY:
        ledger.timings = [*ledger.timings, round(now - slot.created_at, 3)][-TIMINGS:]
        ledger.slot_streak = Streak()


def _retired(ledger: Ledger, slot: Slot, news: ContainerNews, now: float) -> None:
    reason = slot.ending or news.reason or EndReason.LOST
    if news.reason in _OF_ITS_OWN:
        reason = news.reason
    failure = news.failure
    if failure is None and slot.state in PREPARING and reason in _BROKEN:
        failure = Failure(step=slot.state, reason=f"the container ended: {reason}", at=now)
    if failure is not None and reason is not EndReason.REFUSED:
        ledger.counters.failures += 1
        served = ledger.serving.source.fingerprint if ledger.serving else None
        if failure.step == IMAGE_GONE_STEP and slot.fingerprint == served:
            ledger.serving = None  # what is wanted is not there: it is built again
        # Those that were on their way together fail together: one round, one step of the streak.
        if slot.created_at >= ledger.slot_streak.at:
            ledger.slot_streak = failed_again(ledger.slot_streak, failure, now)
    unserved = slot.lease is not None and slot.ending is None and not news.expires_at
    if unserved:
        # It ended before its grant reached it, so nobody has used it: the claim gets another.
        leases.regrant(ledger, slot, now)
    remove_slot(ledger, slot, reason, now)
    if unserved:
        leases.grant_waiting(ledger, now)


def remove_slot(ledger: Ledger, slot: Slot, reason: EndReason, now: float) -> None:
    """A container is gone for good: free its place and remember its claim as ended."""
    del ledger.slots[slot.container]
    bump(ledger.counters.retired, str(reason))
    if slot.lease is not None:
        ledger.remember_ended(slot.lease.claim_id, slot.container, reason, now)


def failed_again(streak: Streak, failure: Failure, now: float) -> Streak:
    """One more failure in a row; ``retry_at`` None at the limit."""
    count = streak.count + 1
    wait = backoff(count)
    retry_at = None if wait is None else now + wait
    return Streak(count=count, retry_at=retry_at, failure=failure, at=now)


def hear_snapshot(ledger: Ledger, news: SnapshotNews, now: float) -> None:
    """A build ended; news of any other build than the present one changes nothing."""
    build = ledger.build
    if build is None or build.source.fingerprint != news.fingerprint:
        return
    ledger.build = None
    if news.record is not None:
        ledger.serving = news.record
        ledger.build_streak = Streak()
        ledger.slot_streak = Streak()
    elif news.failure is not None and news.failure.step != CANCELLED_STEP:
        ledger.counters.failures += 1
        ledger.build_streak = failed_again(ledger.build_streak, news.failure, now)


def hear_source(ledger: Ledger, found: Source | Failure, generation: int, now: float) -> None:
    """The repository was looked at, for the configuration of ``generation``."""
    if generation != ledger.generation:
        return  # the pool file changed meanwhile; the next look answers for it
    if isinstance(found, Failure):
        ledger.look = True  # again, when the streak allows it
        ledger.counters.failures += 1
        ledger.build_streak = failed_again(ledger.build_streak, found, now)
        return
    another = ledger.wanted is None or ledger.wanted.fingerprint != found.fingerprint
    failure = ledger.build_streak.failure
    if another or (failure is not None and failure.step == "source"):
        ledger.build_streak = Streak()
    ledger.wanted = found
    if ledger.build is not None and ledger.build.source.fingerprint != found.fingerprint:
        ident = snapshot_workflow_id(ledger.pool, ledger.build.source.fingerprint)
        ledger.post("signal", ident, "stop", Ask(seq=0))  # superseded


def undeliverable(ledger: Ledger, entry: OutboxEntry, now: float) -> None:
    """Temporal says that the receiver of ``entry`` does not exist (any more)."""
    kind, _, ident = entry.workflow_id.removeprefix("greenroom/").partition("/")
    name = ident.partition("/")[2]
    if entry.payload.get("transferred"):
        return  # it knew of its lease: its own end is on its way, or it is asked past its time
    if entry.name == "verdict":
        _give_back(ledger, entry, now)
    elif name in ledger.slots and entry.workflow_id == container_workflow_id(ledger.pool, name):
        slot = ledger.slots[name]
        if entry.name == "claimed" and slot.ending is None:
            leases.regrant(ledger, slot, now)  # it never knew of its lease
        tell_ended(ledger, slot, slot.ending or EndReason.LOST)
        remove_slot(ledger, slot, slot.ending or EndReason.LOST, now)
        leases.grant_waiting(ledger, now)
    elif kind == "snapshot" and ledger.build and ledger.build.source.fingerprint == name:
        failure = Failure(step="build", reason="the build's workflow is gone", at=now)
        hear_snapshot(ledger, SnapshotNews(fingerprint=name, failure=failure), now)


def _give_back(ledger: Ledger, entry: OutboxEntry, now: float) -> None:
    """Nobody is waiting for this grant any more: nobody will use its containers."""
    told = [entry.payload.get("lease"), *entry.payload.get("leases", ())]
    granted = {lease["token"] for lease in told if lease}
    for slot in ledger.slots.values():
        lease = slot.lease
        if lease is not None and lease.token in granted:
            gone = ReleaseRequest(
                claim_id=lease.claim_id, token=lease.token, reason=EndReason.CANCELLED
            )
            leases.release(ledger, gone, now)
