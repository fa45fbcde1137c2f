"""One slot's life on its host: placed, created, brought to its commit, proved, removed."""

from __future__ import annotations

from temporalio import activity

from activities.boundary import beating, boundary
from activities.checkout import checkout_of, git_access
from activities.context import HostContext
from activities.engine import Exec, Json
from activities.leasefiles import GIT_ENVIRONMENT
from activities.making import Making, make, take_away
from activities.people import LABEL_USER, Person
from activities.profiles import LABEL_DEPENDENCIES
from activities.registries import Registries
from activities.slotfiles import locked_slot, read_slot, write_slot
from activities.steps import Line, run_line
from activities.worktree import worktree_mark
from greenroom.core.errors import NotFoundError, PreparationError
from greenroom.core.messages import ContainerInput
from greenroom.core.names import host_queue
from greenroom.core.news import IMAGE_GONE_STEP
from greenroom.core.orders import CreatedContainer, PlaceInput, Placement, SlotRef
from greenroom.core.policy import Phase, plan_network, proxy_environment
from greenroom.core.records import Done, Source, StepRecord
from greenroom.core.slotfile import SlotRecord


class Containers:
    """Activities on slots."""

    def __init__(self, ctx: HostContext) -> None:
        self._ctx = ctx
        self._registries = Registries(ctx.settings, ctx.engine)

    @activity.defn(name="place", no_thread_cancel_exception=True)
    @boundary
    def place(self, asked: PlaceInput) -> Placement:  # noqa: ARG002  (one host has room for all)
        """Offer this host."""
        host = self._ctx.settings.host
        return Placement(host=host, queue=host_queue(host))

    @activity.defn(name="create_container", no_thread_cancel_exception=True)
    @boundary
    def create_container(self, asked: ContainerInput) -> CreatedContainer:
        """Make and start a slot behind its gate. Raises PreparationError, EngineError, GateError.

        Idempotent by the container's id.
        """
        with beating():
            record = plan_slot(self._ctx, self._registries, asked)
            with self._ctx.turn():
                made = make(self._ctx, Making(record, asked.config.limits))
            return CreatedContainer(docker_id=made.docker_id, sandbox_key=made.sandbox_key)

    @activity.defn(name="clone_in", no_thread_cancel_exception=True)
    @boundary
    def clone_in(self, asked: ContainerInput) -> StepRecord:
        """Bring the slot's work tree to the pool's commit and prove it. Raises PreparationError."""
        with beating():
            record = self._record(asked)
            checkout = checkout_of(asked.config, asked.snapshot.source)
            line = Line(
                step="cloning",
                text=f"check out {checkout.commit[:12]}",
                command=slot_exec(record, checkout.command()),
                limit_s=asked.config.timeouts.clone,
                log=self._ctx.paths.build_log(asked.pool, asked.container),
            )
            seconds = run_line(self._ctx, line)
            return StepRecord(name="cloning", line=line.text, seconds=round(seconds, 3))

    @activity.defn(name="install_in", no_thread_cancel_exception=True)
    @boundary
    def install_in(self, asked: ContainerInput) -> StepRecord:
        """Make the slot's dependencies those of its work tree. Raises PreparationError.

        Where what decides them is what the image was made with, nothing needs to be done; else
        the sync lines run.
        """
        with beating():
            record = self._record(asked)
            step = self._install(asked, record)
            mark = worktree_mark(self._ctx.engine, record.docker_id, record.workdir)
            with locked_slot(self._ctx.paths, record.container) as now:
                if now is not None:
                    write_slot(self._ctx.paths, now.model_copy(update={"worktree_mark": mark}))
            return step

    @activity.defn(name="remove_container", no_thread_cancel_exception=True)
    @boundary
    def remove_container(self, asked: SlotRef) -> Done:
        """Take a slot away with everything around it; one that is gone is success."""
        with self._ctx.turn():
            take_away(self._ctx, "slot", asked.container)
        return Done()

    def _record(self, asked: ContainerInput) -> SlotRecord:
        record = read_slot(self._ctx.paths, asked.container)
        if record is None or not record.docker_id:
            raise NotFoundError(f"container {asked.container} is not on this host any more")
        return record

    def _install(self, asked: ContainerInput, record: SlotRecord) -> StepRecord:
        source = asked.snapshot.source
        lines = lines_to_sync(snapshot_image(self._ctx, record.image_id), source)
        seconds = 0.0
        for text in lines:
            line = Line(
                step="installing",
                text=text,
                command=slot_exec(record, ("/bin/sh", "-ec", text), asked.config.env),
                limit_s=asked.config.timeouts.install,
                log=self._ctx.paths.build_log(asked.pool, asked.container),
            )
            seconds += run_line(self._ctx, line)
        return StepRecord(
            name="installing",
            line="; ".join(lines),
            seconds=round(seconds, 3),
            reused=not lines,
        )


def plan_slot(ctx: HostContext, registries: Registries, asked: ContainerInput) -> SlotRecord:
    """The lease file of a slot that is to be made. Raises PreparationError: no such image."""
    snapshot, config = asked.snapshot, asked.config
    image = snapshot_image(ctx, snapshot.image_id)
    plan = plan_network(None, registries.endpoints(config.network.task, config.image))
    person = Person.from_label(str(image["Config"]["Labels"][LABEL_USER]))
    return SlotRecord(
        container=asked.container,
        pool=asked.pool,
        kind="slot",
        phase=Phase.PARKED,
        policies=plan.policies,
        listeners=plan.listeners,
        hosts=plan.hosts,
        git=git_access(asked.pool, snapshot.source),
        user=person.user,
        uid=person.uid,
        gid=person.gid,
        workdir=str(image["Config"]["WorkingDir"]),
        commit=snapshot.source.commit,
        fingerprint=snapshot.source.fingerprint,
        image_id=str(image["Id"]),
        environment={**person.environment, **registries.plain_environment(config)},
        hooks=bool(config.hooks.claim) and config.hooks.wait_for == "hooks",
        warn_s=config.lease.warn,
        git_name=config.git.name,
        git_email=config.git.email,
        most_saved=config.saved.max_size,
    )


def snapshot_image(ctx: HostContext, image_id: str) -> Json:
    """A snapshot's image. Raises PreparationError when it is gone or not one of ours."""
    image = ctx.engine.inspect_image(image_id)
    if image is None or LABEL_USER not in (image["Config"].get("Labels") or {}):
        raise PreparationError(
            f"the snapshot's image {image_id[:19]} is not on this host any more",
            step=IMAGE_GONE_STEP,
        )
    return image


def slot_exec(
    record: SlotRecord, command: tuple[str, ...], environment: dict[str, str] | None = None
) -> Exec:
    """A command in a slot as its user, in its work folder, behind its gate."""
    return Exec(
        container=record.docker_id,
        command=command,
        user=f"{record.uid}:{record.gid}",
        workdir=record.workdir,
        environment={**exec_environment(record), **(environment or {})},
    )


def exec_environment(record: SlotRecord) -> dict[str, str]:
    """The variables that every command in a container gets."""
    armed = record.lease is not None and record.lease.policy_armed
    return {**proxy_environment(), **(GIT_ENVIRONMENT if armed else {}), **record.environment}


def lines_to_sync(image: Json, source: Source) -> tuple[str, ...]:
    """The sync lines when the image was made with other dependency inputs, else none.

    The work tree itself was just proved to be at the source's commit, so its inputs are the
    source's. Raises PreparationError when they differ and the pool has no lines for that.
    """
    if (image["Config"].get("Labels") or {}).get(LABEL_DEPENDENCIES) == source.dependencies:
        return ()
    if not source.sync:
        raise PreparationError(
            "the files that decide the dependencies differ from the snapshot's, and the pool has "
            "no sync lines",
            step="installing",
        )
    return source.sync
