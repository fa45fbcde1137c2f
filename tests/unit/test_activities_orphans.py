"""What is swept is decided from facts: never on a doubt, never before a lease's end."""

from hypothesis import given
from hypothesis import strategies as st

from activities.orphans import (
    PASSING_S,
    Ending,
    Facts,
    OwnContainer,
    Owner,
    OwnImage,
    Sweep,
    decide,
    owners_to_ask,
)
from greenroom.core.policy import Phase
from greenroom.core.slotfile import HostLease, SlotRecord

NOW = 1_000_000.0
HERE = "namespace-1"
names = st.sampled_from(["c1", "c2", "c3"])
namespaces = st.sampled_from([HERE, "namespace-2", ""])


@st.composite
def leases(draw: st.DrawFn) -> HostLease | None:
    if draw(st.booleans()):
        return None
    return HostLease(
        claim_id="claim",
        token=1,
        expires_at=draw(st.sampled_from([NOW - 10, NOW + 10])),
        policy_armed=draw(st.booleans()),
        ended=draw(st.booleans()),
    )


@st.composite
def all_facts(draw: st.DrawFn) -> Facts:
    containers = draw(
        st.lists(
            st.builds(
                OwnContainer,
                docker_id=st.uuids().map(str),
                kind=st.sampled_from(["slot", "builder", "verify", "saver", "ask"]),
                container=names,
                workflow=st.sampled_from(["w1", "w2", ""]),
                namespace=namespaces,
                created_at=st.sampled_from([NOW - 2 * PASSING_S, NOW - 1]),
            ),
            max_size=4,
        )
    )
    records = {}
    for name in draw(st.sets(names)):
        records[name] = SlotRecord(
            container=name,
            pool="p",
            kind=draw(st.sampled_from(["slot", "builder", "verify"])),
            workflow_id=draw(st.sampled_from(["w1", "w2", ""])),
            namespace_id=draw(namespaces),
            created_at=NOW - 100,
            phase=draw(st.sampled_from(Phase)),
            unsaved=draw(st.sampled_from(["", "git could not"])),
            lease=draw(leases()),
        )
    images = draw(
        st.lists(
            st.builds(
                OwnImage,
                image_id=st.uuids().map(str),
                kind=st.sampled_from(["snapshot", "saver"]),
                pool=st.just("p"),
                fingerprint=st.just("f"),
                workflow=st.sampled_from(["w1", "w2"]),
                namespace=namespaces,
                created_at=st.just(NOW - 1),
                recorded=st.booleans(),
            ),
            max_size=3,
        )
    )
    facts = Facts(
        now=NOW,
        namespace=HERE,
        containers=tuple(containers),
        images=tuple(images),
        records=records,
        sites=frozenset(draw(st.sets(names))),
        personal=frozenset(draw(st.sets(names))),
        claims={"k": draw(names)},
    )
    owners = {w: draw(st.sampled_from(Owner)) for w in owners_to_ask(facts)}
    return Facts(**{**vars(facts), "owners": owners})


@given(all_facts())
def test_nothing_with_a_live_or_unknown_owner_is_ended(facts: Facts) -> None:
    for ending in decide(facts).endings:
        owners = {
            (c.workflow, c.namespace) for c in facts.containers if c.container == ending.container
        }
        record = facts.records.get(ending.container)
        if record is not None:
            owners.add((record.workflow_id, record.namespace_id))
        gone = {
            workflow
            for workflow, namespace in owners
            if namespace == HERE and facts.owners.get(workflow) is Owner.GONE
        }
        assert gone


@given(all_facts())
def test_nothing_is_ended_before_its_lease(facts: Facts) -> None:
    for ending in decide(facts).endings:
        record = facts.records.get(ending.container)
        if record is not None and record.lease is not None:
            assert record.lease.ended or record.lease.expires_at <= NOW
            assert not record.unsaved  # a day has not gone by


@given(all_facts())
def test_work_that_may_be_there_is_saved_first(facts: Facts) -> None:
    present = {c.container for c in facts.containers}
    for ending in decide(facts).endings:
        record = facts.records.get(ending.container)
        armed = record is not None and record.lease is not None and record.lease.policy_armed
        slot = record is not None and record.kind == "slot"
        assert ending.save == (armed and slot and ending.container in present)


@given(all_facts())
def test_all_owners_open_or_unknown_means_only_leftovers_of_steps_go(facts: Facts) -> None:
    for state in (Owner.OPEN, Owner.UNKNOWN):
        owners = dict.fromkeys(facts.owners, state)
        plan = decide(Facts(**{**vars(facts), "owners": owners}))
        assert plan.endings == ()
        assert plan.images == ()
        old = {c.docker_id for c in facts.containers if c.created_at < NOW - PASSING_S}
        assert set(plan.docker_ids) <= old


@given(all_facts())
def test_host_files_go_exactly_when_nothing_stands_behind_them(facts: Facts) -> None:
    plan = decide(facts)
    guarded = {c.container for c in facts.containers if c.kind in {"slot", "builder", "verify"}}
    assert set(plan.sites) == facts.sites - facts.records.keys()
    assert set(plan.personal) == facts.personal - facts.records.keys() - guarded
    assert set(plan.claims) == {k for k, c in facts.claims.items() if c not in facts.records}


def test_a_whole_story() -> None:
    record = SlotRecord(
        container="c1", pool="p", workflow_id="w", namespace_id=HERE, created_at=NOW - 50
    )
    container = OwnContainer("d1", "slot", "c1", "w", HERE, NOW - 50)
    facts = Facts(NOW, HERE, (container,), (), {"c1": record})
    assert owners_to_ask(facts) == {"w"}
    assert decide(facts) == Sweep()
    gone = Facts(NOW, HERE, (container,), (), {"c1": record}, owners={"w": Owner.GONE})
    assert decide(gone) == Sweep(endings=(Ending("slot", "c1", save=False),))
