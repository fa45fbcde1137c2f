"""Ledger, plan, leases and news under any order of events, against a world of small workflows."""

from __future__ import annotations

from unittest import mock

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from greenroom.core import grants, keeper, leases, news, plan, queue, transfers
from greenroom.core.errors import GreenroomError, LiveClaimsError, NoContainerError
from greenroom.core.ledger import BUDGET_BYTES, Ledger, Waiting
from greenroom.core.lifecycle import EndReason, State
from greenroom.core.messages import ClaimRequest, ReleaseRequest, TransferRequest
from greenroom.core.names import member_id, member_of
from greenroom.core.pool_messages import ConfigureRequest, SuspendRequest
from greenroom.core.records import Lease
from tests.builders import NOW, make_config
from tests.world import ContainerFlow, World, answer_of

CLAIMS = tuple(f"claim-{n}" for n in range(5))
GROUPS = {"pair": 2, "some": 3}
"""Groups by count; what there is of "some" is enough."""
MEMBERS = tuple(member_id(group, n + 1) for group, count in GROUPS.items() for n in range(count))
HOLDERS = {
    "claim-0": "ann",
    "claim-1": "ann",
    "claim-2": "bob",
    "claim-3": "ann",
    "pair": "ann",
    "some": "bob",
}
PRIORITIES = {"claim-2": 1, "some": -1}
QUOTAS = (None, 2, 3)
TTL = 1000.0
index = st.integers(0, 1000)
seldom = st.sampled_from([False, False, False, False, True])


def request_for(name: str, **how: object) -> ClaimRequest:
    """Always the same request under one id, but for how long it waits."""
    return ClaimRequest.model_validate(
        {
            "claim_id": name,
            "holder": HOLDERS.get(name, ""),
            "priority": PRIORITIES.get(name, 0),
            "count": GROUPS.get(name, 1),
            "partial": name == "some",
            "ttl_s": TTL,
            **how,
        }
    )


class KeeperMachine(RuleBasedStateMachine):
    """Holders, a keeper and its world; every rule is one event."""

    def __init__(self) -> None:
        super().__init__()
        config = make_config(size={"min": 2, "max": 4})
        self.world = World(Ledger(pool=config.name, config=config), NOW)
        self.held: dict[str, Lease] = {}
        self.given_up: set[str] = set()
        self.used: set[str] = set()
        self.granted: dict[int, tuple[str, str]] = {}
        self.down_forced: set[str] = set()
        self.transferred: dict[int, int] = {}
        self.patch = mock.patch.object(leases, "grant", self.checked_grant)
        self.patch.start()

    def checked_grant(
        self, ledger: Ledger, waiting: Waiting, count: int, now: float
    ) -> tuple[Lease, ...]:
        """Every grant is in order and within its holder's quota."""
        request, live = waiting.request, queue.live_leases(ledger)
        bound = ledger.config.claims.per_holder
        assert bound is None or live[request.holder] + count <= bound
        assert count == request.count or (request.partial and 1 <= count < request.count)
        for other in ledger.queue:
            wanted = 1 if other.request.partial else other.request.count
            if other is waiting or (bound and live[other.request.holder] + wanted > bound):
                continue
            assert waiting.head >= other.head
            if waiting.head or other.passed >= queue.PASSES:
                continue
            assert request.priority >= other.request.priority
            if request.priority == other.request.priority and waiting.passed < queue.PASSES:
                mine = (live[request.holder], waiting.arrival)
                assert mine < (live[other.request.holder], other.arrival)
        return grants.grant(ledger, waiting, count, now)

    @property
    def ledger(self) -> Ledger:
        return self.world.ledger

    def pick(self, number: int, alive: bool = True) -> ContainerFlow | None:
        flows = [f for f in self.world.containers.values() if not (alive and f.closed)]
        return flows[number % len(flows)] if flows else None

    @initialize(settled=st.sampled_from([True, True, True, False]), quota=st.sampled_from(QUOTAS))
    def begin(self, settled: bool, quota: int | None) -> None:
        config = make_config(size={"min": 2, "max": 4}, claims={"per_holder": quota})
        keeper.configure(self.ledger, ConfigureRequest(config=config))
        if settled:
            self.world.settle()

    @rule()
    def all_comes_to_rest(self) -> None:
        self.world.settle()

    # ── holders ──────────────────────────────────────────────────────────────────────────────

    @rule(claim=st.sampled_from(CLAIMS), wait=st.sampled_from([0.0, 600.0]))
    def claim_by_update(self, claim: str, wait: float) -> None:
        self.claim(request_for(claim, wait_s=wait, issued_at=self.world.now))

    @rule(group=st.sampled_from([*GROUPS]), wait=st.sampled_from([0.0, 600.0]))
    def claim_a_group(self, group: str, wait: float) -> None:
        live = {
            slot.lease.claim_id: slot.lease
            for slot in self.ledger.slots_of(group)
            if slot.lease is not None and slot.ending is None
        }
        request = request_for(group, wait_s=wait, issued_at=self.world.now)
        try:
            reply = leases.claim(self.ledger, request, self.world.now)
        except GreenroomError:
            return
        told = {lease.claim_id: lease for lease in reply.leases}
        assert reply.lease is None
        if live:
            assert told == live
        elif told:
            full = len(told) == GROUPS[group]
            assert full or group == "some"
            assert len({one.container for one in told.values()}) == len(told)
        self.take(reply.leases)

    def take(self, granted: tuple[Lease, ...]) -> None:
        for lease in granted:
            self.held[lease.claim_id] = lease
            self.given_up.discard(lease.claim_id)

    def claim(self, request: ClaimRequest) -> None:
        before = self.ledger.slot_of(request.claim_id)
        known = before.lease if before and before.ending is None else None
        answer = answer_of(self.world, request)
        if before is not None and before.transferred_from:
            assert isinstance(answer, GreenroomError), "the first holder got the next one's token"
            return
        if known is not None and not request.corpse:
            assert isinstance(answer, Lease)
            assert (answer.token, answer.container) == (known.token, known.container)
        if isinstance(answer, Lease):
            self.held[request.claim_id] = answer
            self.given_up.discard(request.claim_id)
        elif answer is None:
            self.given_up.discard(request.claim_id)

    @rule(claim=st.sampled_from(CLAIMS))
    def claim_with_another_request(self, claim: str) -> None:
        slot = self.ledger.slot_of(claim)
        if slot is None or slot.ending is not None:
            return
        other = request_for(claim, ttl_s=TTL + 1, wait_s=1.0)
        refused = answer_of(self.world, other)
        assert isinstance(refused, GreenroomError)
        assert refused.code == ("fenced" if slot.transferred_from else "conflict")
        if refused.code == "conflict":
            assert "ttl_s is 1000 there and 1001 here" in refused.message

    @rule(member=st.sampled_from(MEMBERS))
    def claim_under_the_id_of_a_member(self, member: str) -> None:
        if self.ledger.slots_of(member):
            refused = answer_of(self.world, request_for(member, wait_s=600))
            assert isinstance(refused, GreenroomError)
            assert refused.code == "conflict"

    @rule(claim=st.sampled_from((*CLAIMS, *GROUPS)))
    def claim_by_signal(self, claim: str) -> None:
        request = request_for(claim)
        leases.claim_with_wait(self.ledger, request, self.world.now)
        slot = self.ledger.slot_of(claim)
        queued = any(w.request.claim_id == claim for w in self.ledger.queue)
        if queued or (slot is not None and slot.ending is None):
            self.given_up.discard(claim)

    @rule(claim=st.sampled_from((*CLAIMS, *MEMBERS)))
    def use(self, claim: str) -> None:
        """The holder's driver arms the container, if it runs."""
        lease = self.held.get(claim)
        flow = self.world.containers.get(lease.container) if lease else None
        if flow is not None and not flow.gone and not flow.closed and flow.end is None:
            self.used.add(flow.container)

    @rule(claim=st.sampled_from((*CLAIMS, *MEMBERS)), wait=st.sampled_from([0.0, 600.0]))
    def claim_again_for_a_corpse(self, claim: str, wait: float) -> None:
        lease = self.held.get(claim)
        flow = self.world.containers.get(lease.container) if lease else None
        if lease is None or flow is None or not flow.gone or flow.container in self.used:
            return
        group, member = member_of(claim)
        dead = {"corpse": lease.container, "corpse_token": lease.token, "member": member}
        request = request_for(group or claim, wait_s=wait, **dead)
        answer = answer_of(self.world, request)
        if isinstance(answer, Lease):
            assert answer.container != lease.container
            assert answer.token > lease.token
            assert (answer.claim_id, answer.group) == (claim, group)
            self.held[claim] = answer
        elif isinstance(answer, NoContainerError):
            self.given_up.add(claim)

    @rule(claim=st.sampled_from((*CLAIMS, *MEMBERS)))
    def release(self, claim: str) -> None:
        lease = self.held.pop(claim, None)
        if lease is None:
            return
        try:
            leases.release(
                self.ledger,
                ReleaseRequest(claim_id=claim, token=lease.token),
                self.world.now,
            )
        except GreenroomError:
            return
        self.given_up.add(claim)

    @rule(claim=st.sampled_from(CLAIMS), holder=st.sampled_from(["ada", "bob"]))
    def transfer(self, claim: str, holder: str) -> None:
        lease = self.held.get(claim)
        if lease is None:
            return
        request = TransferRequest(claim_id=claim, token=lease.token, holder=holder)
        try:
            passed = transfers.transfer(self.ledger, request).lease
        except GreenroomError:
            return
        assert passed == transfers.transfer(self.ledger, request).lease
        assert passed.container == lease.container
        self.transferred[passed.token] = lease.token
        self.held[claim] = passed

    @rule(claim=st.sampled_from((*CLAIMS, *GROUPS, *MEMBERS)), timed_out=st.booleans())
    def wait_moves(self, claim: str, timed_out: bool) -> None:
        flow = self.world.waits.get(claim)
        if flow is None or not flow.running:
            return
        queued = any(w.request.claim_id == claim for w in self.ledger.queue)
        granted = self.world.end_wait(claim, timed_out=timed_out)
        if granted:
            self.held.update({lease.claim_id: lease for lease in granted})
        elif timed_out and queued:
            self.given_up.add(claim)

    # ── the world ────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.ledger.outbox)
    @rule(number=index)
    def outbox_delivers(self, number: int) -> None:
        receivers = self.world.receivers()
        self.world.deliver(receivers[number % len(receivers)])

    @precondition(lambda self: self.world.sent)
    @rule(number=index)
    def outbox_repeats(self, number: int) -> None:
        entry = self.world.sent[number % len(self.world.sent)]
        _, _, ident = entry.workflow_id.removeprefix("greenroom/").partition("/")
        if entry.kind == "signal" and ident.partition("/")[2] in self.world.containers:
            self.world.receive(entry)

    @rule(number=index)
    def container_moves(self, number: int) -> None:
        flow = self.pick(number)
        if flow is not None:
            flow.progress(self.world.now)

    @rule(number=index)
    def news_arrives(self, number: int) -> None:
        waiting = [f for f in self.world.containers.values() if f.told]
        if waiting:
            self.world.hear_news(waiting[number % len(waiting)].container)

    @rule(number=index)
    def news_comes_twice(self, number: int) -> None:
        waiting = [f for f in self.world.containers.values() if f.told]
        if waiting:
            told = waiting[number % len(waiting)].told[0]
            news.hear_container(self.ledger, told, self.world.now)

    @rule(number=index)
    def container_dies(self, number: int) -> None:
        flow = self.pick(number)
        if flow is not None:
            flow.die()

    @rule(number=index, really=seldom)
    def container_fails(self, number: int, really: bool) -> None:
        flow = self.pick(number)
        if really and flow is not None:
            flow.fail()

    @precondition(lambda self: self.world.looking)
    @rule(failed=seldom)
    def look_ends(self, failed: bool) -> None:
        self.world.end_look(failed=failed)

    @precondition(lambda self: self.world.builds)
    @rule(failed=st.sampled_from(["", "", "", "install"]))
    def build_ends(self, failed: str) -> None:
        self.world.end_build(next(iter(self.world.builds)), failed)

    @rule(seconds=st.sampled_from([1.0, 1.0, 5.0, 30.0, TTL]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    # ── people ───────────────────────────────────────────────────────────────────────────────

    @rule(force=st.booleans())
    def push(self, force: bool) -> None:
        self.world.commit += 1
        keeper.look_again(self.ledger, force=force)

    @rule(
        size=st.sampled_from([(0, 4), (1, 2), (2, 4), (3, 4)]),
        pids=st.sampled_from([256, 512]),
        quota=st.sampled_from(QUOTAS),
        really=seldom,
    )
    def configure(self, size: tuple[int, int], pids: int, quota: int | None, really: bool) -> None:
        if not really:
            return
        config = make_config(
            size={"min": size[0], "max": size[1]},
            limits={"pids": pids},
            claims={"per_holder": quota},
        )
        keeper.configure(self.ledger, ConfigureRequest(config=config))

    @rule(paused=seldom)
    def pause(self, paused: bool) -> None:
        self.ledger.paused = paused

    @rule(force=st.booleans(), really=seldom)
    def down(self, force: bool, really: bool) -> None:
        if not really:
            return
        live = keeper.live_claims(self.ledger)
        try:
            keeper.suspend(self.ledger, SuspendRequest(force=force), self.world.now)
        except LiveClaimsError:
            assert live
            assert not force
            return
        self.given_up.update((*CLAIMS, *MEMBERS))

    @rule()
    def up(self) -> None:
        request = ConfigureRequest(config=self.ledger.config, resume_from_down=True)
        keeper.configure(self.ledger, request)

    @rule()
    def continue_as_new(self) -> None:
        self.ledger.fit_budget()
        self.world.ledger = Ledger.model_validate_json(self.ledger.model_dump_json())

    # ── what must hold ───────────────────────────────────────────────────────────────────────

    @invariant()
    def a_keeper_wakes_after_every_event(self) -> None:
        self.world.step()

    @invariant()
    def no_container_is_granted_twice(self) -> None:
        leased = [s.lease for s in self.ledger.slots.values() if s.lease is not None]
        for lease in sorted(leased, key=lambda held: held.token):
            token, pair = lease.token, (lease.claim_id, lease.container)
            if token not in self.granted:
                assert token > max(self.granted, default=0), "tokens must grow"
                containers = {container for _, container in self.granted.values()}
                if token not in self.transferred:
                    assert lease.container not in containers, "a used container was granted again"
                else:
                    assert self.granted[self.transferred[token]] == pair
                self.granted[token] = pair
            assert self.granted[token] == pair

    @invariant()
    def a_claim_has_at_most_one_container_and_is_not_queued_too(self) -> None:
        holders = [s.lease.claim_id for s in self.ledger.slots.values() if s.lease]
        queued = [w.request.claim_id for w in self.ledger.queue]
        both = holders + queued
        assert len(both) == len(set(both))

    @invariant()
    def no_claim_runs_in_two_containers(self) -> None:
        running = [
            f.lease.claim_id
            for f in self.world.containers.values()
            if f.lease is not None and f.armed and not f.gone and not f.closed and f.end is None
        ]
        assert len(running) == len(set(running))

    @invariant()
    def the_ledger_fits_its_budget(self) -> None:
        assert self.ledger.size_bytes() <= BUDGET_BYTES

    @invariant()
    def nobody_waits_for_what_is_there(self) -> None:
        assert queue.next_turn(self.ledger) is None
        assert all(waiting.passed <= queue.PASSES for waiting in self.ledger.queue)

    @invariant()
    def lives_stay_below_max(self) -> None:
        assert len(self.ledger.slots) <= 4 + plan.surge(4)

    def teardown(self) -> None:
        """After the storm: nothing is lost, nothing is left over, the pool is full."""
        try:
            self.calm()
        finally:
            self.patch.stop()

    def calm(self) -> None:
        world = self.world
        request = ConfigureRequest(config=world.ledger.config, resume_from_down=True)
        keeper.configure(world.ledger, request)
        world.ledger.paused = False
        keeper.look_again(world.ledger, force=True)
        world.settle()
        ledger = world.ledger
        assert {c for c, f in world.containers.items() if not f.closed} == set(ledger.slots)
        have = plan.counts(keeper.facts(ledger, looking=False))
        room = ledger.config.size.max - have.claimed
        wanted = plan.target(ledger.config.size.min, ledger.config.size.max, queue.demand(ledger))
        assert have.fresh_ready == max(0, min(wanted, room))
        assert have.preparing == have.ending == have.stale_ready == 0
        # Who still waits is held back by a quota, or wants more than others leave.
        assert not queue.demand(ledger) or have.fresh_ready < max(GROUPS.values())
        assert queue.next_turn(ledger) is None
        self.no_lease_was_lost()

    def no_lease_was_lost(self) -> None:
        """A holder that did not give its claim up still has it, or it ended for a true reason."""
        for claim, lease in self.held.items():
            flow = self.world.containers[lease.container]
            if claim in self.given_up or self.ledger.slot_of(claim) is not None:
                continue
            queued = any(w.request.claim_id == claim for w in self.ledger.queue)
            ended = self.ledger.find_ended(claim)
            assert queued or ended is not None
            if ended is None:
                continue
            container, reason = ended
            last = self.world.containers[container]
            if reason is EndReason.DIED:
                assert last.gone
                assert last.armed or container in self.used, "never served, never replaced"
            elif reason in (EndReason.EXPIRED, EndReason.LOST):
                # Lost: it was asked past its time, and its workflow had closed by then.
                assert self.world.now >= flow.lease.expires_at if flow.lease else True
            else:
                # Its Wait had gone when the grant came.
                assert reason is EndReason.CANCELLED, reason
            assert last.state is State.READY


KeeperMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestKeeperMachine = KeeperMachine.TestCase
