"""What a claim over Temporal brings along, and what runs once it is armed."""

from __future__ import annotations

import asyncio

from temporalio.exceptions import ApplicationError

from greenroom.core.lifecycle import EndReason
from greenroom.core.messages import ArmReply, ArmRequest
from greenroom.core.records import Lease
from greenroom.core.sealed import CLAIM_BYTES, Content
from greenroom.sealing import PrivateKey
from tests.workflows.pools import Pool, history_of, refused
from tests.workflows.test_keeping import transfer
from workflows.container import Container

PLAIN = "in-the-clear-0815"
SEALED = PrivateKey.new().public.seal(Content(pool="p", name="T", value="x"))


async def arm(pool: Pool, lease: Lease) -> ArmReply:
    asked = ArmRequest(claim_id=lease.claim_id, token=lease.token)
    return await pool.container(lease.container).execute_update(Container.arm, asked)


async def commands_of(pool: Pool, container: str) -> list[str]:
    """The names of the activities in a container's history."""
    events = (await pool.container(container).fetch_history()).events
    return [
        event.activity_task_scheduled_event_attributes.activity_type.name
        for event in events
        if event.HasField("activity_task_scheduled_event_attributes")
    ]


# ── secrets ──────────────────────────────────────────────────────────────────────────────────


async def test_a_claim_by_update_in_the_clear_is_refused_and_leaves_no_event(full: Pool) -> None:
    for fields in ({"env": {"A": PLAIN}}, {"secrets": {"A": PLAIN}}, {"files": {"a": PLAIN}}):
        raw = {"claim_id": "a", **fields}
        with refused("usage") as told:
            await full.keeper.execute_update("claim", raw)
        assert "greenroom seal" in told[0].message
        assert "host_secrets" in told[0].message
        with refused("usage"):
            await full.keeper.execute_update("claims", {"requests": [{"claim_id": "c"}, raw]})
    await full.grant("b")
    assert PLAIN.encode() not in await history_of(full.keeper)


async def test_a_claim_by_signal_in_the_clear_is_refused_and_goes_no_further(full: Pool) -> None:
    await full.keeper.signal("claim", {"claim_id": "a", "secrets": {"A": PLAIN}})
    verdict = await full.verdict("a")
    assert (verdict.lease, verdict.code) == (None, "usage")
    assert PLAIN.encode() not in await history_of(full.wait("a"))
    assert PLAIN.encode() in await history_of(full.keeper)  # as the docs say


async def test_sealed_values_and_names_reach_the_host_of_whatever_container_it_gets(
    full: Pool,
) -> None:
    gate = full.host.gate("arm_lease")
    lease = await full.grant("a", sealed={"T": SEALED}, host_secrets=["KEY"])
    full.host.dead.add(lease.container)
    gate.set()
    verdict = await full.verdict("a")
    assert verdict.lease is not None
    await full.until_armed(verdict.lease)
    brought = full.host.brought["a"]
    assert (brought.sealed, brought.host_secrets) == ({"T": SEALED}, ("KEY",))
    assert brought.lease.container != lease.container
    again = await full.claim("a", sealed={"T": SEALED}, host_secrets=["KEY"])
    assert again.lease is not None
    assert again.lease.container == verdict.lease.container
    with refused("conflict"):
        await full.claim("a", host_secrets=["KEY"])


async def test_what_is_sealed_is_bounded_and_looked_at(full: Pool) -> None:
    for sealed, code in (
        ({"T": "plain"}, "secret"),
        ({"not a name": SEALED}, "usage"),
        ({"T": SEALED + "A" * CLAIM_BYTES}, "usage"),
    ):
        with refused(code):
            await full.claim("a", sealed=sealed)
    await full.until_ready(2)


async def test_a_claim_whose_secrets_cannot_be_had_ends_with_the_reason(full: Pool) -> None:
    full.host.failing["arm_lease"] = ApplicationError(
        "the sealed value of T is for another pool", type="secret", non_retryable=True
    )
    closing = full.host.gate("close_lease")
    lease = await full.grant("a", sealed={"T": SEALED})
    await full.until_true(lambda: bool(full.host.ends))
    with refused("not_found") as told:
        await arm(full, lease)
    assert "for another pool" in told[0].message
    closing.set()
    assert await full.container(lease.container).result() == "refused"
    (end,) = full.host.ends
    assert (end.reason, end.save) == (EndReason.REFUSED, False)
    del full.host.failing["arm_lease"]
    status = await full.until_ready(2)
    assert status.failure_streak == 0  # a wrong claim is not the pool's failure
    with refused("not_found") as told:
        await full.claim("a", sealed={"T": SEALED})
    assert "refused" in told[0].message


# ── hooks ────────────────────────────────────────────────────────────────────────────────────


async def hooked(pool: Pool, **hooks: object) -> Pool:
    await pool.configure(hooks={"claim": ["one", "two"], **hooks})
    await pool.until_ready(2)
    return pool


async def test_no_hooks_cost_nothing(full: Pool) -> None:
    lease = await full.grant("a")
    assert (await arm(full, lease)).failed_hook == ""
    assert (await commands_of(full, lease.container))[-1] == "arm_lease"


async def test_hooks_run_in_order_and_arm_waits_for_them(pool: Pool) -> None:
    await hooked(pool)
    gate = pool.host.gate("run_hook:two")
    lease = await pool.grant("a")
    asked = asyncio.create_task(arm(pool, lease))
    await pool.until_true(lambda: pool.host.subjects("run_hook") == ["one", "two"])
    assert not asked.done()
    gate.set()
    assert (await asked).armed
    assert (await commands_of(pool, lease.container))[-3:] == ["arm_lease", "run_hook", "run_hook"]


async def test_a_transfer_while_they_run_changes_nothing_about_them(pool: Pool) -> None:
    await hooked(pool)
    gate = pool.host.gate("run_hook:two")
    lease = await pool.grant("a", sealed={"T": SEALED})
    await pool.until_true(lambda: pool.host.subjects("run_hook") == ["one", "two"])
    assert pool.host.brought["a"].sealed
    passed = await transfer(pool, lease, "bob")
    await pool.until_armed(passed)
    asked = asyncio.create_task(arm(pool, passed))
    gate.set()
    assert (await asked).armed
    assert pool.host.subjects("run_hook") == ["one", "two"]
    assert pool.host.brought["a"].sealed == {}  # what is there already is not brought again


async def test_wait_for_ready_does_not_wait(pool: Pool) -> None:
    await hooked(pool, wait_for="ready")
    pool.host.gate("run_hook:one")
    lease = await pool.grant("a")
    assert (await arm(pool, lease)).armed
    await pool.until_true(lambda: pool.host.subjects("run_hook") == ["one"])
    await pool.release(lease)  # ends what still runs
    await pool.until_gone(lease.container)


async def test_a_failing_hook_is_told_and_the_claim_stays(pool: Pool) -> None:
    await hooked(pool, claim=["fail here", "never"])
    lease = await pool.grant("a")
    reply = await arm(pool, lease)
    assert reply.failed_hook == "claim hook 1 failed with code 3: fail here"
    assert reply.hook_tail == "its last words"
    assert pool.host.subjects("run_hook") == ["fail here"]
    assert (await pool.claim("a")).lease == lease


async def test_a_changed_hook_makes_ready_containers_stale(full: Pool) -> None:
    before = {slot.container for slot in (await full.status()).containers}
    await full.configure(hooks={"claim": ["one"]})
    await full.until(
        lambda s: s.counts.ready == 2 and not before & {slot.container for slot in s.containers}
    )
