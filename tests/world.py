"""A world for the keeper: container, build and wait workflows as small state machines.

They behave as the workflows of this project promise: news of one container keeps its order,
messages may come twice, a workflow that ended cannot be signalled, a container is used once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from greenroom.core import keeper, leases, news, plan
from greenroom.core.errors import GreenroomError
from greenroom.core.ledger import Ledger, OutboxEntry
from greenroom.core.lifecycle import EndReason, State
from greenroom.core.messages import (
    CancelClaim,
    Claimed,
    ClaimRequest,
    ContainerNews,
    NewsKind,
    ReleaseRequest,
    Retire,
    WaitInput,
    WaitVerdict,
)
from greenroom.core.names import ulid
from greenroom.core.pool_messages import SnapshotNews
from greenroom.core.records import Failure, Lease, SnapshotRecord, Source
from tests.builders import make_source

STEPS: dict[State, tuple[NewsKind, State]] = {
    State.CREATING: ("created", State.CLONING),
    State.CLONING: ("cloned", State.INSTALLING),
    State.INSTALLING: ("installed", State.READY),
}


@dataclass
class ContainerFlow:
    """One container's workflow. ``gone``: its Docker container does not run any more."""

    container: str
    state: State = State.CREATING
    lease: Lease | None = None
    armed: bool = False
    gone: bool = False
    corpse: bool = False
    end: EndReason | None = None
    failure: Failure | None = None
    closed: bool = False
    seq: int = 0
    told: deque[ContainerNews] = field(default_factory=deque)

    def hear(self, entry: OutboxEntry) -> None:
        if entry.name == "claimed":
            lease = Claimed.model_validate(entry.payload).lease
            if self.end is None and (self.lease is None or lease.token > self.lease.token):
                self.lease = lease
        elif entry.name == "release":
            request = ReleaseRequest.model_validate(entry.payload)
            newer = self.lease is None or request.token >= self.lease.token
            if newer and self.end is None:
                self.end = request.reason
        elif entry.name == "retire" and self.end is None:
            self.end = Retire.model_validate(entry.payload).reason
            self.corpse = self.end is EndReason.DIED and not self.armed
        elif entry.name == "ask":
            self.tell("alive")

    def die(self) -> None:
        self.gone = True
        if self.state in (State.CLONING, State.INSTALLING) and self.end is None:
            self.failure = Failure(step=self.state, reason="the container died")
            self.end = EndReason.DIED

    def fail(self) -> None:
        if self.state in STEPS and self.end is None:
            self.failure = Failure(step=self.state, reason="the step failed")
            self.end = EndReason.FAILED

    def progress(self, now: float) -> bool:
        """One step; False when there is nothing to do."""
        if self.closed:
            return False
        if self.end is not None:
            if self.lease is not None and not self.corpse:
                self.tell("ending", self.end)
            self.tell("retired", self.end)
            self.closed = True
        elif self.state in STEPS:
            kind, self.state = STEPS[self.state]
            self.tell(kind)
        elif self.lease is not None and not self.armed:
            if self.gone:
                self.end, self.corpse = EndReason.DIED, True
                self.tell("corpse")
            else:
                self.armed = True
        elif self.gone:
            self.end = EndReason.DIED
        elif self.lease is not None and now >= self.lease.expires_at:
            self.end = EndReason.EXPIRED
        else:
            return False
        return True

    def tell(self, kind: NewsKind, reason: EndReason | None = None) -> None:
        self.seq += 1
        self.told.append(
            ContainerNews(
                container=self.container,
                seq=self.seq,
                kind=kind,
                at=0.0,
                host="host-a",
                docker_id=f"docker-{self.container}",
                expires_at=self.lease.expires_at if self.lease else 0.0,
                reason=reason,
                failure=self.failure,
            )
        )


@dataclass
class WaitFlow:
    """One claim's Wait workflow."""

    request: ClaimRequest
    running: bool = True
    verdict: WaitVerdict | None = None


@dataclass
class World:
    """The keeper's ledger and everything that it talks to."""

    ledger: Ledger
    now: float
    looking: deque[tuple[int, int]] = field(default_factory=deque)
    commit: int = 1
    containers: dict[str, ContainerFlow] = field(default_factory=dict)
    waits: dict[str, WaitFlow] = field(default_factory=dict)
    builds: dict[str, Source] = field(default_factory=dict)
    sent: list[OutboxEntry] = field(default_factory=list)
    made: int = 0

    def step(self) -> None:
        """What the keeper does when it wakes."""
        leases.grant_waiting(self.ledger, self.now)
        for _ in range(20):
            decision = plan.decide(keeper.facts(self.ledger, looking=bool(self.looking)), self.now)
            if not decision.actions:
                return
            for action in decision.actions:
                if isinstance(action, plan.Look):
                    self.ledger.look = False
                    self.looking.append((self.ledger.generation, self.commit))
                keeper.enact(self.ledger, action, self.now, iter(self._ids()))
        raise AssertionError(f"the plan never rests: {decision.actions}")

    def _ids(self) -> list[str]:
        self.made += 100
        return [ulid(self.now, self.made + n) for n in range(100)]

    def receivers(self) -> list[str]:
        """Workflows that something is waiting for in the outbox."""
        return list(dict.fromkeys(entry.workflow_id for entry in self.ledger.outbox))

    def deliver(self, workflow_id: str) -> None:
        """Send the oldest entry for one receiver; order between receivers is free."""
        entry = next(e for e in self.ledger.outbox if e.workflow_id == workflow_id)
        reached = self.receive(entry)
        self.ledger.outbox.remove(entry)
        self.sent.append(entry)
        if not reached:
            news.undeliverable(self.ledger, entry, self.now)

    def receive(self, entry: OutboxEntry) -> bool:
        """What Temporal does with an entry; False when there is no such workflow."""
        kind, _, ident = entry.workflow_id.removeprefix("greenroom/").partition("/")
        name = ident.partition("/")[2]
        if entry.kind == "start":
            self._start(kind, name, entry.payload)
            return True
        if kind == "container":
            flow = self.containers.get(name)
            if flow is None or flow.closed:
                return False
            flow.hear(entry)
            return True
        if kind == "wait":
            return self._tell_wait(name, WaitVerdict.model_validate(entry.payload))
        if entry.name == "stop" and name in self.builds:
            self.end_build(name, failed="cancelled")
            return True
        return name in self.builds

    def _start(self, kind: str, name: str, payload: dict[str, Any]) -> None:
        if kind == "container":
            self.containers.setdefault(name, ContainerFlow(name))
        elif kind == "snapshot":
            self.builds.setdefault(name, Source.model_validate(payload["source"]))
        elif name not in self.waits or not self.waits[name].running:
            self.waits[name] = WaitFlow(WaitInput.model_validate(payload).request)

    def _tell_wait(self, claim_id: str, verdict: WaitVerdict) -> bool:
        flow = self.waits.get(claim_id)
        if flow is None or not flow.running:
            return False
        if flow.verdict is None or verdict.granted():
            flow.verdict = verdict
        return True

    def end_build(self, name: str, failed: str = "") -> None:
        source = self.builds.pop(name)
        record = SnapshotRecord(
            source=source, image_id="sha256:1", image_tag="t", built_at=self.now, seconds=1.0
        )
        told = (
            SnapshotNews(fingerprint=name, failure=Failure(step=failed, reason="no"))
            if failed
            else SnapshotNews(fingerprint=name, record=record)
        )
        news.hear_snapshot(self.ledger, told, self.now)

    def end_look(self, *, failed: bool = False) -> None:
        generation, commit = self.looking.popleft()
        found = (
            Failure(step="source", reason="no such repository") if failed else make_source(commit)
        )
        news.hear_source(self.ledger, found, generation, self.now)

    def hear_news(self, container: str) -> None:
        told = self.containers[container].told.popleft()
        news.hear_container(self.ledger, told, self.now)

    def end_wait(self, claim_id: str, *, timed_out: bool) -> tuple[Lease, ...]:
        """The Wait finishes with its verdict, or asks for its end; the leases it got."""
        flow = self.waits[claim_id]
        if flow.verdict is None:
            if timed_out:
                gone = CancelClaim(claim_id=claim_id, reason=EndReason.TIMED_OUT)
                leases.cancel(self.ledger, gone, self.now)
            return ()
        flow.running = False
        return flow.verdict.granted()

    def settle(self) -> None:
        """Let everything that is under way come to its end, without failures."""
        for _ in range(500):
            self.step()
            moved = False
            for receiver in self.receivers():
                self.deliver(receiver)
                moved = True
            for flow in list(self.containers.values()):
                moved |= flow.progress(self.now)
                while flow.told:
                    self.hear_news(flow.container)
            while self.looking:
                self.end_look()
                moved = True
            for name in list(self.builds):
                self.end_build(name)
                moved = True
            if not moved and not self.ledger.outbox:
                return
        raise AssertionError("the world does not come to rest")


def answer_of(world: World, request: ClaimRequest) -> Lease | GreenroomError | None:
    """The lease that a claim by Update gets, its refusal, or None when it is queued."""
    try:
        return leases.claim(world.ledger, request, world.now).lease
    except GreenroomError as error:
        return error
