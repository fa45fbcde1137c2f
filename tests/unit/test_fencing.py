"""Every operation that carries a fencing token, with the token of an earlier lease: refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities.leases import arm, extend, warn
from activities.slotfiles import read_slot, write_slot
from activities.tasks import Tasks
from greenroom.api.leases import find_lease, usable_slot
from greenroom.core import leases, transfers
from greenroom.core.access import TRUSTED
from greenroom.core.errors import FencedError, NotFoundError
from greenroom.core.ledger import Ledger
from greenroom.core.messages import (
    ArmedNews,
    ArmRequest,
    Claimed,
    ContainerInput,
    ExtendRequest,
    ReleaseRequest,
    TransferRequest,
)
from greenroom.core.orders import ExtendInput, WarnInput
from greenroom.core.paths import StatePaths
from greenroom.core.policy import Phase
from greenroom.core.records import Lease, Message
from greenroom.core.slotfile import HostLease, SlotRecord
from greenroom.core.task_messages import RunInput, TaskInput
from tests.builders import NOW, make_config, make_ledger, make_record, make_request
from workflows.container import Container
from workflows.task import Task


@pytest.fixture(autouse=True)
def outside_of_a_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container's handlers are called here by themselves, where there is no workflow time."""
    monkeypatch.setattr("workflows.container.now", lambda: NOW)


def regranted() -> tuple[Ledger, Lease, Lease]:
    """A claim's lease on a dead container, and the live one that it got instead."""
    ledger = make_ledger(ready=2)
    old = leases.claim(ledger, make_request(), NOW).lease
    assert old is not None
    told = {"corpse": old.container, "corpse_token": old.token}
    new = leases.claim(ledger, make_request(**told), NOW).lease
    assert new is not None
    return ledger, old, new


def container(lease: Lease) -> Container:
    """The workflow of the container that is held under ``lease``."""
    start = ContainerInput(
        pool="api", container=lease.container, config=make_config(), snapshot=make_record()
    )
    flow = Container(start)
    flow.claimed(Claimed(seq=1, lease=lease))
    return flow


def host(lease: Lease, root: Path) -> Any:
    """A host whose lease file says ``lease``; it is never asked for more than that."""
    paths = StatePaths(root)
    held = HostLease(
        claim_id=lease.claim_id, token=lease.token, expires_at=2 * NOW, policy_armed=True
    )
    record = SlotRecord(container=lease.container, pool=lease.pool, phase=Phase.CLAIMED, lease=held)
    write_slot(paths, record)
    return SimpleNamespace(paths=paths)


def at_the_keeper(ledger: Ledger, old: Lease, new: Lease, _: Path) -> None:
    with pytest.raises(FencedError):
        leases.release(ledger, ReleaseRequest(claim_id="c1", token=old.token), NOW)
    assert ledger.slots[new.container].ending is None


def release_of_the_container(_: Ledger, old: Lease, new: Lease, __: Path) -> None:
    request = ReleaseRequest(claim_id="c1", token=old.token)
    flow = container(new)
    with pytest.raises(ApplicationError) as caught:
        flow._check_release(request)  # type: ignore[operator]
    assert caught.value.type == "fenced"
    flow.release_by_signal(request)
    assert flow._life.end is None
    early = container(new)
    early._held.lease = None
    early.release_by_signal(request)  # came before ``claimed``, and is not about it
    early.claimed(Claimed(seq=1, lease=new))
    assert early._life.end is None


def extend_of_the_container(_: Ledger, old: Lease, new: Lease, __: Path) -> None:
    with pytest.raises(ApplicationError) as caught:
        container(new)._check_extend(ExtendRequest(token=old.token, ttl_s=5))  # type: ignore[operator]
    assert caught.value.type == "fenced"


def arm_of_the_container(_: Ledger, old: Lease, new: Lease, __: Path) -> None:
    with pytest.raises(ApplicationError) as caught:
        container(new)._check_arm(ArmRequest(claim_id="c1", token=old.token))  # type: ignore[operator]
    assert caught.value.type == "fenced"


def a_late_grant(_: Ledger, old: Lease, new: Lease, __: Path) -> None:
    flow = container(new)
    flow.claimed(Claimed(seq=9, lease=old))
    assert flow._held.lease == new


def arm_on_the_host(_: Ledger, old: Lease, new: Lease, root: Path) -> None:
    ctx = host(new, root)
    late = old.model_copy(update={"container": new.container})
    with pytest.raises(FencedError):
        arm(ctx, late, None)
    held = read_slot(ctx.paths, new.container)
    assert held is not None
    assert held.lease is not None
    assert held.lease.token == new.token


def extend_on_the_host(_: Ledger, old: Lease, new: Lease, root: Path) -> None:
    order = ExtendInput(
        pool="api", container=new.container, claim_id="c1", token=old.token, expires_at=3 * NOW
    )
    with pytest.raises(FencedError):
        extend(host(new, root), order)


def warn_on_the_host(_: Ledger, old: Lease, new: Lease, root: Path) -> None:
    order = WarnInput(pool="api", container=new.container, token=old.token, expires_at=3 * NOW)
    with pytest.raises(FencedError):
        warn(host(new, root), order)


def transfer_of_a_claim(ledger: Ledger, old: Lease, _: Lease, __: Path) -> None:
    with pytest.raises(FencedError):
        transfers.transfer(ledger, TransferRequest(claim_id="c1", token=old.token, holder="eve"))


def a_corpse_of_before(ledger: Ledger, old: Lease, new: Lease, _: Path) -> None:
    told = {"corpse": new.container, "corpse_token": old.token}
    assert leases.claim(ledger, make_request(**told), NOW).lease == new


def armed_of_before(_: Ledger, old: Lease, new: Lease, __: Path) -> None:
    info = SimpleNamespace(workflow_id="greenroom/task/api/c1")
    with patch("workflows.task.workflow.info", lambda: info):
        flow = Task(TaskInput(pool="api", command=("true",)))
    flow.armed(ArmedNews(claim_id="c1", token=old.token))
    assert flow._armed < new.token  # which is what the command waits for


def a_command_on_the_host(_: Ledger, old: Lease, new: Lease, root: Path) -> None:
    ctx = host(new, root)
    late = old.model_copy(update={"container": new.container})
    asked = RunInput(lease=late, command=("true",))
    assert ActivityEnvironment().run(Tasks(ctx).run_task, asked).outcome == "ended"


OPERATIONS: dict[str, tuple[Callable[[Ledger, Lease, Lease, Path], None], ...]] = {
    "ReleaseRequest": (at_the_keeper, release_of_the_container),
    "ExtendRequest": (extend_of_the_container,),
    "ArmRequest": (arm_of_the_container,),
    "ArmedNews": (armed_of_before,),
    "Lease": (a_late_grant, arm_on_the_host, a_command_on_the_host),
    "ExtendInput": (extend_on_the_host,),
    "WarnInput": (warn_on_the_host,),
    "TransferRequest": (transfer_of_a_claim,),
    "ClaimRequest": (a_corpse_of_before,),
    # The container's workflow orders the end of its own lease, of which it is the owner.
    "EndInput": (),
}


@pytest.mark.parametrize("refused", [each for several in OPERATIONS.values() for each in several])
def test_an_old_token_is_refused(
    refused: Callable[[Ledger, Lease, Lease, Path], None], tmp_path: Path
) -> None:
    ledger, old, new = regranted()
    before = ledger.model_dump_json()
    refused(ledger, old, new, tmp_path)
    assert ledger.model_dump_json() == before


def test_no_message_with_a_token_is_left_out() -> None:
    def below(model: type[Message]) -> set[type[Message]]:
        return {model}.union(*(below(sub) for sub in model.__subclasses__()))

    with_token = {
        model.__name__
        for model in below(Message)
        if model.__module__.startswith("greenroom.core.")  # not those of tests and clients
        and any(name.endswith("token") for name in model.model_fields)
    }
    assert with_token == set(OPERATIONS)


@pytest.mark.parametrize(
    "ask",
    [
        lambda state, token: find_lease(state, "c1", token=token),
        lambda state, token: usable_slot(state, "c1", token),
    ],
    ids=["claims", "exec"],
)
async def test_the_api_refuses_an_old_token_before_it_does_anything(
    ask: Callable[[Any, int], Awaitable[object]], tmp_path: Path
) -> None:
    _, old, new = regranted()
    paths = host(new, tmp_path).paths
    side = SimpleNamespace(slot_of_claim=lambda _: read_slot(paths, new.container))
    state = SimpleNamespace(host=side, paths=paths, grant=TRUSTED)
    with pytest.raises(FencedError):
        await ask(state, old.token)
    with pytest.raises(NotFoundError):
        await ask(state, new.token + 1)
