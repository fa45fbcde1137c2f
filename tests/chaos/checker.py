"""The six properties of the design, section 9, as functions over recorded events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from tests.chaos import events as ev

SWEPT_WITHIN_S = 60.0
ENDED_WITHIN_S = 60.0
RECOVERED_WITHIN_S = 600.0
UNSAVED_KEPT_S = 24 * 3600.0
END_ORDER: tuple[ev.EndStepName, ...] = (
    "token_refused",
    "gate_closed",
    "killed",
    "stopped",
    "saved",
    "removed",
)
E = TypeVar("E", bound=ev.Event)
Ending = ev.Released | ev.Expired


@dataclass(frozen=True)
class Violation:
    """``number``: the property of section 9 that does not hold."""

    number: int
    at: float
    what: str

    def __str__(self) -> str:
        return f"property {self.number} at {self.at:.3f}: {self.what}"


class Trace:
    """Events in the order of their times, with look-ups by kind."""

    def __init__(self, recorded: Iterable[ev.Event]) -> None:
        self.events = sorted(recorded, key=lambda event: event.at)
        self.end = self.events[-1].at if self.events else 0.0

    def of(self, *kinds: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kinds)]

    def grants(self) -> list[ev.Granted]:
        """The first record of each grant."""
        first: dict[tuple[str, str, str, int], ev.Granted] = {}
        for grant in self.of(ev.Granted):
            first.setdefault((grant.pool, grant.claim, grant.container, grant.token), grant)
        return list(first.values())

    def ended_at(self, container: str, *, by_death: bool = True) -> float | None:
        """When a container's one lease ended, or the container itself did.

        A death before the last start is that of an unfinished one, which was made anew.
        """
        mine = [event for event in self.events if getattr(event, "container", "") == container]
        times = [event.at for event in mine if isinstance(event, ev.Released | ev.Expired)]
        if by_death:
            started = max((e.at for e in mine if isinstance(e, ev.ContainerStarted)), default=0.0)
            deaths = [e for e in mine if isinstance(e, ev.ContainerDied | ev.ContainerRemoved)]
            times += [event.at for event in deaths if event.at >= started]
        return min(times, default=None)

    def expiry(self, grant: ev.Granted) -> float:
        """The end of a lease with all its extensions."""
        same = [e for e in self.of(ev.Extended) if e.claim == grant.claim]
        return max([grant.expires_at, *(e.expires_at for e in same if e.token == grant.token)])

    def disturbed_until(self, start: float, end: float) -> float:
        """The end of the last fault that touches ``start`` to ``end``; ``start`` when none does."""
        until = start
        open_at: dict[str, float] = {}
        for event in self.of(ev.Fault, ev.FaultEnded):
            if isinstance(event, ev.Fault):
                open_at[event.name] = event.at
            elif event.name in open_at and open_at.pop(event.name) <= end and event.at >= start:
                until = max(until, event.at)
        return max([until, *(self.end for began in open_at.values() if began <= end)])


def check(recorded: Iterable[ev.Event]) -> list[Violation]:
    """Every violation of the six properties in these events, in the order of their times."""
    trace = Trace(recorded)
    found = [violation for rule in PROPERTIES for violation in rule(trace)]
    return sorted(found, key=lambda violation: (violation.at, violation.number))


def granted_once(trace: Trace) -> list[Violation]:
    """1. No container is granted twice, and no claim gets two live containers."""
    found = []
    holders: dict[str, ev.Granted] = {}
    tokens: dict[tuple[str, int], ev.Granted] = {}
    latest: dict[tuple[str, str], ev.Granted] = {}
    for grant in trace.grants():
        other = holders.setdefault(grant.container, grant)
        if other is not grant:
            what = f"{grant.container} was granted to {other.claim} and to {grant.claim}"
            found.append(Violation(1, grant.at, what))
        other = tokens.setdefault((grant.pool, grant.token), grant)
        if other is not grant:
            what = f"token {grant.token} of {grant.pool} stands for two grants"
            found.append(Violation(1, grant.at, what))
        before = latest.get((grant.pool, grant.claim))
        if before is not None and before.container != grant.container:
            ended = trace.ended_at(before.container)
            if ended is None or ended > grant.at:
                what = f"{grant.claim} has {before.container} and {grant.container}, both live"
                found.append(Violation(1, grant.at, what))
        latest[grant.pool, grant.claim] = grant
    return found


def leases_live_as_long_as_they_say(trace: Trace) -> list[Violation]:
    """2. No granted lease is lost, and none outlives its end."""
    found = []
    for grant in trace.grants():
        over = trace.expiry(grant)
        ended = trace.ended_at(grant.container)
        closed = _closed_at(trace, grant.container)
        for use in trace.of(ev.ExecOk, ev.Reached):
            if use.container != grant.container:
                continue
            end = min(t for t in (over, ended, closed) if t is not None)
            if use.at > end:
                what = f"{grant.claim} was still of use {use.at - end:.3f} s after its end"
                found.append(Violation(2, use.at, what))
        for refusal in trace.of(ev.ExecRefused):
            mine = refusal.claim == grant.claim and refusal.token == grant.token
            if mine and refusal.at < over and (ended is None or refusal.at < ended):
                what = f"{grant.claim} was refused while its lease was live"
                found.append(Violation(2, refusal.at, what))
        due = trace.disturbed_until(over, over) + ENDED_WITHIN_S
        if ended is None and trace.end > due:
            found.append(Violation(2, due, f"{grant.claim} was not ended after its time"))
    return found


def _closed_at(trace: Trace, container: str) -> float | None:
    steps = [e.at for e in trace.of(ev.EndStep) if e.container == container]
    return min(steps, default=None)


def nothing_is_left_over(trace: Trace) -> list[Violation]:
    """3. Everything belongs to a live workflow, or is swept; the sweep takes nothing else."""
    found = []
    for name, owner, start, gone in _things(trace):
        workflow_end = _workflow_end(trace, owner)
        if workflow_end is None:
            continue
        orphan_since = max(start, workflow_end)
        due = trace.disturbed_until(orphan_since, orphan_since + SWEPT_WITHIN_S) + SWEPT_WITHIN_S
        if (trace.end if gone is None else gone) > due:
            found.append(Violation(3, due, f"{name} of {owner} is left over"))
    for sweep in trace.of(ev.Swept):
        closed = _workflow_end(trace, sweep.owner)
        if not sweep.own:
            found.append(Violation(3, sweep.at, f"{sweep.owner} belongs to another install"))
        elif sweep.evidence not in ("not_found", "closed"):
            found.append(Violation(3, sweep.at, f"{sweep.owner} swept on {sweep.evidence}"))
        elif closed is None or closed > sweep.at:
            found.append(Violation(3, sweep.at, f"{sweep.owner} swept while its workflow ran"))
        elif sweep.at < sweep.lease_end:
            found.append(Violation(3, sweep.at, f"{sweep.owner} swept before its lease's end"))
    return found


def _things(trace: Trace) -> list[tuple[str, str, float, float | None]]:
    """Name, owner, first and last moment of everything that a workflow must account for."""
    there: dict[tuple[str, str], float] = {}
    done: list[tuple[str, str, float, float | None]] = []
    unsaved = {e.container for e in trace.of(ev.Saved) if e.state == "unsaved"}
    for event in trace.events:
        match event:
            case ev.ContainerStarted(container=owner):
                there.setdefault(("container", owner), event.at)
            case ev.ContainerRemoved(container=owner) if ("container", owner) in there:
                done.append(("container", owner, there.pop(("container", owner)), event.at))
            case ev.Kept(present=True):
                there.setdefault((f"{event.kind} {event.name}", event.owner), event.at)
            case ev.Kept(present=False):
                key = (f"{event.kind} {event.name}", event.owner)
                if key in there:
                    done.append((*key, there.pop(key), event.at))
            case _:
                pass
    left = [(name, owner, start, None) for (name, owner), start in there.items()]
    return [thing for thing in [*done, *left] if thing[1] not in unsaved]


def _workflow_end(trace: Trace, owner: str) -> float | None:
    """When an owner's workflow closed: 0 when it never was, None while it runs."""
    state: float | None = 0.0
    for event in trace.of(ev.WorkflowOpen, ev.WorkflowClosed):
        if event.owner == owner:
            state = event.at if isinstance(event, ev.WorkflowClosed) else None
    return state


def used_containers_never_come_back(trace: Trace) -> list[Violation]:
    """4. A used container never goes back to the pool."""
    found = []
    used: dict[str, float] = {}
    for event in trace.events:
        match event:
            case ev.Granted(container=container) | ev.ExecOk(container=container):
                used.setdefault(container, event.at)
            case ev.ContainerReady(container=container) if container in used:
                found.append(Violation(4, event.at, f"{container} is offered again after use"))
            case ev.ContainerStarted(container=container) if container in used:
                found.append(Violation(4, event.at, f"{container} was started again after use"))
            case _:
                pass
    return found


def the_pool_recovers(trace: Trace) -> list[Violation]:
    """5. The pool returns to its target without a person."""
    found = []
    below: dict[str, float] = {}
    for event in trace.events:
        match event:
            case ev.PoolBelowTarget(pool=pool):
                below.setdefault(pool, event.at)
            case ev.PoolAtTarget(pool=pool) if pool in below:
                found += _recovered(trace, pool, below.pop(pool), event.at)
            case _:
                pass
    for pool, since in below.items():
        found += _recovered(trace, pool, since, trace.end)
        if trace.of(ev.Finished):
            found.append(Violation(5, trace.end, f"{pool} is below its target at the end"))
    return found


def _recovered(trace: Trace, pool: str, since: float, until: float) -> list[Violation]:
    found = [
        Violation(5, help_.at, f"{pool} needed a person: {help_.what}")
        for help_ in trace.of(ev.Intervened)
        if since <= help_.at <= until
    ]
    if until > trace.disturbed_until(since, until) + RECOVERED_WITHIN_S:
        found.append(Violation(5, until, f"{pool} was below its target since {since:.3f}"))
    return found


def work_is_kept(trace: Trace) -> list[Violation]:
    """6. Work is not lost, and a claimed container ends in the written order."""
    found = _out_of_order(trace)
    discarded = {e.container for e in trace.of(ev.Released) if e.discard}
    saved: dict[str, list[ev.Saved]] = defaultdict(list)
    for record in trace.of(ev.Saved):
        saved[record.container].append(record)
    removed = {e.container: e.at for e in trace.of(ev.ContainerRemoved)}
    for work in trace.of(ev.WorkWritten):
        if work.container in discarded:
            continue
        states = {record.state for record in saved[work.container]}
        gone = removed.get(work.container)
        ended = trace.ended_at(work.container) is not None and bool(trace.of(ev.Finished))
        if (gone is not None or ended) and not states & {"saved", "unsaved"}:
            at = trace.end if gone is None else gone
            found.append(Violation(6, at, f"the work of {work.claim} is lost"))
    for record in trace.of(ev.Saved):
        gone = removed.get(record.container)
        if record.state == "unsaved" and gone is not None and gone - record.at < UNSAVED_KEPT_S:
            what = f"{record.container} was removed with the unsaved work of {record.claim}"
            found.append(Violation(6, gone, what))
    return found


def _out_of_order(trace: Trace) -> list[Violation]:
    """Steps of an end that came before one that must precede them, or without it."""
    found = []
    steps: dict[str, dict[str, float]] = defaultdict(dict)
    for step in trace.of(ev.EndStep):
        steps[step.container].setdefault(step.step, step.at)
    for container, times in steps.items():
        reached = [END_ORDER.index(name) for name in times]  # type: ignore[arg-type]
        for index in range(max(reached)):
            name, following = END_ORDER[index], END_ORDER[index + 1]
            if name not in times:
                what = f"{container} was {END_ORDER[max(reached)]} and never {name}"
                found.append(Violation(6, max(times.values()), what))
            elif following in times and times[following] < times[name]:
                what = f"{container} was {following} before it was {name}"
                found.append(Violation(6, times[following], what))
    return found


PROPERTIES: tuple[Callable[[Trace], list[Violation]], ...] = (
    granted_once,
    leases_live_as_long_as_they_say,
    nothing_is_left_over,
    used_containers_never_come_back,
    the_pool_recovers,
    work_is_kept,
)
