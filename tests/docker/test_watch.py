"""The watch over the real engine, with a stand-in for Temporal's client."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hosts import Host, Repo, pool_config
from making import Made, Slot, build_snapshot, ready_slot, remove
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from activities.orphans import Owner
from activities.slotfiles import read_slot
from activities.watch import Watch
from greenroom.core.errors import TemporalError
from greenroom.core.messages import Died
from greenroom.core.pool_messages import HostInput

pytestmark = pytest.mark.docker
HOST = HostInput(host="testhost", queue="q")


class Temporal:
    """Workflows by id: a status, or an error that describing and signalling them raises."""

    def __init__(self) -> None:
        self.states: dict[str, object] = {}
        self.namespace = "greenroom"
        self.namespace_id = "the-namespace"
        self.workflow_service = SimpleNamespace(describe_namespace=self._describe_namespace)
        self.signals: asyncio.Queue[tuple[str, str, Died]] = asyncio.Queue()

    async def _describe_namespace(self, _request: object) -> SimpleNamespace:
        return SimpleNamespace(namespace_info=SimpleNamespace(id=self.namespace_id))

    def get_workflow_handle(self, ident: str) -> SimpleNamespace:
        async def describe() -> SimpleNamespace:
            state = self.states.get(ident, WorkflowExecutionStatus.RUNNING)
            if isinstance(state, Exception):
                raise state
            return SimpleNamespace(status=state)

        async def signal(name: str, told: Died) -> None:
            await self.signals.put((ident, name, told))
            state = self.states.get(ident)
            if isinstance(state, RPCError):
                raise state

        return SimpleNamespace(describe=describe, signal=signal)


@pytest.fixture(scope="module")
def made(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Made:
    repo = Repo(tmp_path_factory.mktemp("watch") / "source")
    repo.commit({"hello.txt": "hello\n", ".gitignore": "built/\n"})
    config = pool_config(str(repo.path), name="watched")
    return repo, config, build_snapshot(host, config)


@pytest.fixture
def slot(host: Host, made: Made) -> Iterator[Slot]:
    _, config, snapshot = made
    ready = ready_slot(host, config, snapshot)
    yield ready
    remove(host, ready)


async def test_a_death_is_told_to_its_workflow_at_once_and_shutdown_ends_the_watch(
    host: Host, slot: Slot
) -> None:
    temporal, environment = Temporal(), ActivityEnvironment()
    watching = asyncio.create_task(
        environment.run(Watch(host.ctx, temporal).watch, HOST)  # type: ignore[arg-type]
    )
    await asyncio.sleep(0)
    listening = host.ctx.engine.inspect(slot.docker_id)
    assert listening is not None
    host.ctx.engine.kill(slot.docker_id)
    ident, name, told = await asyncio.wait_for(temporal.signals.get(), 30)
    record = read_slot(host.paths, slot.container)
    assert record is not None
    assert (ident, name, told.docker_id) == (record.workflow_id, "died", slot.docker_id)
    environment.worker_shutdown()
    await asyncio.wait_for(watching, 30)
    assert temporal.signals.empty()  # told once


async def test_not_found_in_another_namespace_sweeps_nothing(host: Host, slot: Slot) -> None:
    temporal = Temporal()
    record = read_slot(host.paths, slot.container)
    assert record is not None
    temporal.states[record.workflow_id] = RPCError("gone", RPCStatusCode.NOT_FOUND, b"")
    watch = Watch(host.ctx, temporal)  # type: ignore[arg-type]
    temporal.namespace_id = "made-anew"
    with pytest.raises(TemporalError, match="nothing is swept"):
        await ActivityEnvironment().run(watch.compare, set[str]())
    assert host.ctx.engine.inspect(slot.docker_id) is not None
    temporal.namespace_id = "the-namespace"
    swept = await ActivityEnvironment().run(watch.compare, set[str]())
    assert swept.containers == 1


async def test_a_death_that_nobody_saw_is_found_by_comparing(host: Host, slot: Slot) -> None:
    temporal, told = Temporal(), set[str]()
    host.ctx.engine.kill(slot.docker_id)
    watch = Watch(host.ctx, temporal)  # type: ignore[arg-type]
    await ActivityEnvironment().run(watch.compare, told)
    await ActivityEnvironment().run(watch.compare, told)
    assert temporal.signals.qsize() == 1
    assert told == {slot.docker_id}


@pytest.mark.parametrize(
    ("answer", "owner"),
    [
        (WorkflowExecutionStatus.RUNNING, Owner.OPEN),
        (WorkflowExecutionStatus.CONTINUED_AS_NEW, Owner.OPEN),
        (WorkflowExecutionStatus.COMPLETED, Owner.GONE),
        (WorkflowExecutionStatus.FAILED, Owner.GONE),
        (WorkflowExecutionStatus.TERMINATED, Owner.GONE),
        (RPCError("none", RPCStatusCode.NOT_FOUND, b""), Owner.GONE),
        (RPCError("down", RPCStatusCode.UNAVAILABLE, b""), Owner.UNKNOWN),
        (RPCError("slow", RPCStatusCode.DEADLINE_EXCEEDED, b""), Owner.UNKNOWN),
        (ValueError("8 is not a valid status"), Owner.UNKNOWN),
        (None, Owner.UNKNOWN),
    ],
)
async def test_only_a_positive_answer_means_gone(host: Host, answer: object, owner: Owner) -> None:
    temporal = Temporal()
    temporal.states["w"] = answer
    watch = Watch(host.ctx, temporal)  # type: ignore[arg-type]
    assert await watch._owners({"w"}) == {"w": owner}


async def test_temporal_out_of_reach_sweeps_nothing(host: Host, slot: Slot) -> None:
    temporal = Temporal()
    record = read_slot(host.paths, slot.container)
    assert record is not None
    temporal.states[record.workflow_id] = RPCError("down", RPCStatusCode.UNAVAILABLE, b"")
    watch = Watch(host.ctx, temporal)  # type: ignore[arg-type]
    await ActivityEnvironment().run(watch.compare, set[str]())
    assert host.ctx.engine.inspect(slot.docker_id) is not None
    temporal.states[record.workflow_id] = RPCError("no", RPCStatusCode.NOT_FOUND, b"")
    await ActivityEnvironment().run(watch.compare, set[str]())
    assert host.ctx.engine.inspect(slot.docker_id) is None


async def test_an_engine_that_is_gone_ends_the_watch_as_a_failure_to_try_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        from greenroom.core.errors import EngineError  # noqa: PLC0415

        raise EngineError("Docker closed the stream of events")

    monkeypatch.setattr(host.ctx.engine, "events", broken)
    watch = Watch(host.ctx, Temporal())  # type: ignore[arg-type]
    with pytest.raises(ApplicationError) as failed:
        await asyncio.wait_for(ActivityEnvironment().run(watch.watch, HOST), 60)
    assert (failed.value.type, failed.value.non_retryable) == ("engine", False)
