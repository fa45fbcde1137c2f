"""A host without Docker: every activity of the real one, on plain dictionaries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from temporalio import activity
from temporalio.exceptions import ApplicationError

from greenroom.core.messages import ContainerInput, ExtendReply
from greenroom.core.orders import (
    ArmedLease,
    ArmInput,
    BuilderCommit,
    BuilderRef,
    BuilderStep,
    CommittedImage,
    CreatedContainer,
    EndInput,
    ExtendInput,
    FoundSnapshot,
    LastBeat,
    LookInput,
    PlaceInput,
    Placement,
    SlotRef,
    TagInput,
    VerifiedImage,
    VerifyInput,
    WarnInput,
)
from greenroom.core.pool_messages import SnapshotInput
from greenroom.core.records import Done, SavedWork, SnapshotRecord, Source, StepRecord
from greenroom.core.task_messages import HookInput, HookResult, RunInput, RunResult


@dataclass
class FakeHost:
    """What the activities did, and what they should do next.

    ``commit`` is the repository's; ``failing`` maps an activity's name (or ``name:subject``) to
    the error it raises; ``gates`` maps one to an event that it waits for. ``marks`` is what
    happened to containers, in order.
    """

    pool: str
    queue: str
    commit: str = "c1"
    containers: dict[str, str] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    armed: dict[str, int] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    failing: dict[str, ApplicationError] = field(default_factory=dict)
    failing_when_cancelled: dict[str, ApplicationError] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    marks: list[tuple[str, str]] = field(default_factory=list)
    ends: list[EndInput] = field(default_factory=list)
    brought: dict[str, ArmInput] = field(default_factory=dict)
    runs: list[RunInput] = field(default_factory=list)
    results: dict[str, RunResult] = field(default_factory=dict)
    """How the command of a claim's Task ends; exit code 0 when it is not named."""
    silent_s: float | None = None
    """How long ago the holder of every lease was last heard of; None: never."""

    async def _called(self, name: str, subject: str) -> None:
        self.calls.append((name, subject))
        for key in (name, f"{name}:{subject}"):
            if key in self.gates:
                try:
                    await self._waited(self.gates[key])
                except asyncio.CancelledError:
                    if name in self.failing_when_cancelled:
                        raise self.failing_when_cancelled[name] from None
                    raise
            if key in self.failing:
                raise self.failing[key]

    async def _waited(self, event: asyncio.Event) -> None:
        gate = asyncio.create_task(event.wait())
        try:
            while not gate.done():
                activity.heartbeat()
                await asyncio.wait([gate], timeout=0.05)
        finally:
            gate.cancel()

    def gate(self, key: str) -> asyncio.Event:
        """From now on this activity waits for the event that is returned."""
        self.gates[key] = asyncio.Event()
        return self.gates[key]

    def _own(self, pool: str) -> None:
        """A stranger's task on the shared queue is a leak between tests."""
        if pool != self.pool:
            raise ApplicationError(f"{pool} is not the pool of this test", non_retryable=True)

    def subjects(self, name: str) -> list[str]:
        """The subjects of every call of one activity, in order."""
        return [subject for called, subject in self.calls if called == name]

    def place_activities(self) -> list[Callable[..., object]]:
        """Activities of the queue that all hosts share."""
        return [self.look, self.place]

    def host_activities(self) -> list[Callable[..., object]]:
        """Activities of this host's own queue."""
        return [
            self.find_snapshot, self.start_builder, self.builder_step, self.commit_builder,
            self.verify_image, self.tag_snapshot, self.remove_builder, self.create_container,
            self.clone_in, self.install_in, self.remove_container, self.arm_lease,
            self.extend_lease, self.warn_lease, self.last_beat, self.close_lease, self.save_work,
        ]  # fmt: skip

    def long_activities(self) -> list[Callable[..., object]]:
        """Activities that may take hours."""
        return [self.run_task, self.run_hook]

    @activity.defn(name="look")
    async def look(self, told: LookInput) -> Source:
        self._own(told.pool)
        await self._called("look", told.pool)
        return Source(
            commit=self.commit, ref=told.config.ref, mirror="m", dependencies="d",
            fingerprint=f"f-{self.commit}", install=("install",),
        )  # fmt: skip

    @activity.defn(name="place")
    async def place(self, told: PlaceInput) -> Placement:
        self._own(told.pool)
        await self._called("place", told.container)
        return Placement(host=self.pool, queue=self.queue)

    @activity.defn(name="find_snapshot")
    async def find_snapshot(self, told: SnapshotInput) -> FoundSnapshot:
        await self._called("find_snapshot", told.source.fingerprint)
        return FoundSnapshot()

    @activity.defn(name="start_builder")
    async def start_builder(self, told: SnapshotInput) -> BuilderRef:
        await self._called("start_builder", told.source.fingerprint)
        return BuilderRef(pool=told.pool, builder="b", fingerprint=told.source.fingerprint)

    @activity.defn(name="builder_step")
    async def builder_step(self, told: BuilderStep) -> StepRecord:
        await self._called("builder_step", told.step)
        return StepRecord(name=told.step)

    @activity.defn(name="commit_builder")
    async def commit_builder(self, told: BuilderCommit) -> CommittedImage:
        await self._called("commit_builder", told.builder.fingerprint)
        return CommittedImage(image_id="sha256:1")

    @activity.defn(name="verify_image")
    async def verify_image(self, told: VerifyInput) -> VerifiedImage:
        await self._called("verify_image", told.snapshot.source.fingerprint)
        return VerifiedImage()

    @activity.defn(name="tag_snapshot")
    async def tag_snapshot(self, told: TagInput) -> SnapshotRecord:
        source = told.snapshot.source
        await self._called("tag_snapshot", source.fingerprint)
        return SnapshotRecord(
            source=source, image_id=told.image.image_id, image_tag=f"t:{source.fingerprint}",
            built_at=told.started_at, seconds=1.0, steps=told.steps,
        )  # fmt: skip

    @activity.defn(name="remove_builder")
    async def remove_builder(self, told: BuilderRef) -> Done:
        await self._called("remove_builder", told.fingerprint)
        return Done()

    @activity.defn(name="create_container")
    async def create_container(self, told: ContainerInput) -> CreatedContainer:
        await self._called("create_container", told.container)
        self.containers[told.container] = f"docker-{told.container}"
        return CreatedContainer(docker_id=f"docker-{told.container}", sandbox_key="/none")

    @activity.defn(name="clone_in")
    async def clone_in(self, told: ContainerInput) -> StepRecord:
        await self._called("clone_in", told.container)
        return StepRecord(name="clone")

    @activity.defn(name="install_in")
    async def install_in(self, told: ContainerInput) -> StepRecord:
        await self._called("install_in", told.container)
        self.marks.append(("ready", told.container))
        return StepRecord(name="install")

    @activity.defn(name="remove_container")
    async def remove_container(self, told: SlotRef) -> Done:
        self.marks.append(("removing", told.container))
        await self._called("remove_container", told.container)
        self.containers.pop(told.container, None)
        return Done()

    @activity.defn(name="arm_lease")
    async def arm_lease(self, told: ArmInput) -> ArmedLease:
        lease = told.lease
        await self._called("arm_lease", lease.container)
        if self.armed.get(lease.container, 0) > lease.token:
            raise ApplicationError("an older token", type="fenced", non_retryable=True)
        if lease.container in self.dead and self.armed.get(lease.container) != lease.token:
            raise ApplicationError("not running", type="corpse", non_retryable=True)
        self.brought[lease.claim_id] = told
        self.armed[lease.container] = lease.token
        return ArmedLease()

    @activity.defn(name="run_task")
    async def run_task(self, told: RunInput) -> RunResult:
        self.runs.append(told)
        await self._called("run_task", told.lease.claim_id)
        return self.results.get(told.lease.claim_id, RunResult(outcome="exited", exit_code=0))

    @activity.defn(name="run_hook")
    async def run_hook(self, told: HookInput) -> HookResult:
        await self._called("run_hook", told.line)
        code = 3 if told.line.startswith("fail") else 0
        return HookResult(index=told.index, line=told.line, exit_code=code, tail="its last words")

    @activity.defn(name="extend_lease")
    async def extend_lease(self, told: ExtendInput) -> ExtendReply:
        await self._called("extend_lease", told.container)
        return ExtendReply(expires_at=told.expires_at, held=told.hold)

    @activity.defn(name="warn_lease")
    async def warn_lease(self, told: WarnInput) -> Done:
        await self._called("warn_lease", told.container)
        return Done()

    @activity.defn(name="last_beat")
    async def last_beat(self, told: SlotRef) -> LastBeat:
        await self._called("last_beat", told.container)
        return LastBeat(age_s=self.silent_s)

    @activity.defn(name="close_lease")
    async def close_lease(self, told: EndInput) -> Done:
        self.ends.append(told)
        await self._called("close_lease", told.container)
        return Done()

    @activity.defn(name="save_work")
    async def save_work(self, told: EndInput) -> SavedWork:
        await self._called("save_work", told.container)
        if not told.save:
            return SavedWork(state="discarded")
        return SavedWork(state="saved", files=("work.bundle",))
