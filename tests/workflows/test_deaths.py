"""Containers that die, and workflows that vanish behind the keeper's back."""

from __future__ import annotations

import pytest

from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import Died
from greenroom.core.records import Lease
from tests.workflows.pools import Pool, refused
from workflows.container import Container


async def next_lease(pool: Pool, old: Lease) -> Lease:
    """The same claim's lease on another container, from the result of its Wait."""
    verdict = await pool.verdict(old.claim_id)
    assert verdict.lease is not None
    lease = verdict.lease
    assert lease.claim_id == old.claim_id
    assert lease.container != old.container
    assert lease.token > old.token
    return lease


async def doomed(pool: Pool) -> str:
    """Kill, unnoticed, the container that the next claim gets."""
    ready = (await pool.status()).containers
    container = min(ready, key=lambda slot: (slot.since, slot.container)).container
    pool.host.dead.add(container)
    return container


async def test_a_corpse_that_arming_finds_is_replaced_for_the_same_claim(full: Pool) -> None:
    container = await doomed(full)
    first = await full.grant("a", holder="ci", labels={"job": "7"})
    assert first.container == container
    second = await next_lease(full, first)
    assert (second.holder, second.labels) == ("ci", {"job": "7"})
    await full.until_armed(second)
    status = await full.until_gone(first.container)
    assert status.counts.claimed == 1
    assert first.container not in full.host.containers
    assert not full.host.subjects("save_work")
    assert (await full.grant("a", holder="ci", labels={"job": "7"})) == second
    await full.until_ready(2)


async def test_a_corpse_that_the_claimer_finds_is_replaced_in_the_same_update(full: Pool) -> None:
    arming = full.host.gate("arm_lease")
    container = await doomed(full)
    first = await full.grant("a")
    again = await full.claim("a", corpse=container, corpse_token=first.token)
    assert again.lease is not None
    second = again.lease
    assert second.container != container
    assert second.token > first.token
    # The report is idempotent, and an old one does not cost the new container.
    late = await full.claim("a", corpse=container, corpse_token=first.token)
    assert late.lease == second
    arming.set()
    await full.until_armed(second)
    status = await full.until_gone(container)
    assert (status.counts.claimed, status.claims_warm) == (1, 1)
    assert not full.host.subjects("save_work")


async def test_both_drivers_may_find_the_same_corpse(full: Pool) -> None:
    container = await doomed(full)
    first = await full.grant("a")
    await full.until_gone(container)
    reply = await full.claim("a", corpse=container, corpse_token=first.token, wait_s=60)
    lease = reply.lease or (await next_lease(full, first))
    await full.until_armed(lease)
    status = await full.until_ready(2)
    assert status.counts.claimed == 1
    assert status.retired == {"died": 1}


async def test_a_ready_container_that_dies_is_replaced(full: Pool) -> None:
    container = (await full.status()).containers[0].container
    await full.kill(container)
    status = await full.until_gone(container)
    assert status.failure is None
    status = await full.until_ready(2)
    assert status.retired == {"died": 1}
    assert container not in full.host.containers


@pytest.mark.parametrize("stage", ["clone_in", "install_in"])
async def test_a_container_that_dies_while_it_is_prepared_is_a_failure(
    pool: Pool, stage: str
) -> None:
    pool.host.gate(stage)
    await pool.configure(size={"min": 1, "max": 2})
    await pool.until_true(lambda: bool(pool.host.subjects(stage)))
    await pool.kill(pool.host.subjects(stage)[0])
    status = await pool.until(lambda s: s.failure is not None)
    assert status.failure is not None
    assert status.failure.reason == "the container died: exit code 137"
    pool.host.gates.clear()
    await pool.pushed(force=True)
    await pool.until_ready(1)


async def test_a_claimed_container_that_dies_ends_its_claim_with_the_work_saved(
    full: Pool,
) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    await full.kill(lease.container)
    assert await full.container(lease.container).result() == "died"
    status = await full.until_gone(lease.container)
    (end,) = full.host.ends
    assert (end.reason, end.save, end.token) == (EndReason.DIED, True, lease.token)
    assert full.host.subjects("save_work") == [lease.container]
    assert status.counts.claimed == 0
    with refused("not_found") as found:
        await full.claim("a")
    assert found[0].details[0]["reason"] == "died"
    await full.until_ready(2)


async def test_a_death_of_another_docker_container_is_not_ours(full: Pool) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    await full.container(lease.container).signal(Container.died, Died(docker_id="older"))
    await full.release(lease)
    assert await full.container(lease.container).result() == "released"


async def test_a_ready_container_without_its_workflow_is_found_by_the_claim_that_gets_it(
    full: Pool,
) -> None:
    container = await doomed(full)
    await full.container(container).terminate("behind the keeper's back")
    first = await full.grant("a")
    assert first.container == container
    second = await next_lease(full, first)
    await full.until_armed(second)
    status = await full.until_ready(2)
    assert status.counts.claimed == 1
    assert status.retired == {"died": 1}


@pytest.mark.slow
async def test_a_claimed_container_without_its_workflow_frees_its_place(full: Pool) -> None:
    """The keeper asks when the lease is past its time, and hears that nobody is there."""
    lease = await full.grant("a", ttl_s=1)
    await full.until_armed(lease)
    await full.container(lease.container).terminate("behind the keeper's back")
    status = await full.until_gone(lease.container)
    assert status.retired == {"lost": 1}
    with refused("not_found") as found:
        await full.claim("a", ttl_s=1)
    assert found[0].details[0]["reason"] == "lost"
    await full.until_ready(2)


async def test_news_that_comes_twice_or_late_changes_nothing(full: Pool) -> None:
    lease = await full.grant("a")
    await full.until_armed(lease)
    await full.until_ready(2)
    # It was quick: the first that it told was that it is ready.
    old = {"container": lease.container, "seq": 1, "at": 0.0, "host": "elsewhere"}
    for kind in ("created", "cloned", "installed", "corpse"):
        await full.keeper.signal("news", {**old, "kind": kind})
    status = await full.status()
    (slot,) = [one for one in status.containers if one.container == lease.container]
    assert (slot.state, slot.host, slot.claim_id) == ("claimed", full.name, "a")
    await full.release(lease)
    status = await full.until_gone(lease.container)
    again = {**old, "seq": 9, "kind": "retired", "reason": "released"}
    await full.keeper.signal("news", again)
    assert (await full.status()).retired == {"released": 1}


async def test_a_container_that_the_ledger_does_not_know_is_retired(full: Pool) -> None:
    """Such as one that reports after its place was given up."""
    container = (await full.status()).containers[0].container
    gone = {"container": container, "seq": 99, "kind": "retired", "at": 0.0, "reason": "lost"}
    await full.keeper.signal("news", gone)
    await full.until_gone(container)
    await full.container(container).signal("ask", {"seq": 1})
    assert await full.container(container).result() == "lost"
    assert container not in full.host.containers
    await full.until_ready(2)
