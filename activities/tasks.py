"""Commands of workflows in a claimed container: those of Tasks, and the claim hooks of pools."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial

from temporalio import activity
from temporalio.exceptions import CancelledError

from activities.beats import beat
from activities.boundary import beating, boundary
from activities.containers import slot_exec
from activities.context import HostContext
from activities.jobs import Job, job_place, run_job, wrapped
from activities.leases import exec_command
from activities.personal import read_secrets
from activities.slotfiles import locked_slot, read_slot, write_slot
from greenroom.core.errors import EngineError
from greenroom.core.records import Lease
from greenroom.core.slotfile import HostLease, SlotRecord
from greenroom.core.task_messages import HookInput, HookResult, RunInput, RunResult, told

PERSONAL_PATIENCE_S = 60.0
"""How long a hook waits for what the claim's API brings; after that it runs without."""
_LOOK_S = 0.02


@dataclass(frozen=True)
class _Run:
    name: str
    command: tuple[str, ...]
    limit_s: float
    workdir: str = ""
    env: dict[str, str] = field(default_factory=dict)


class Tasks:
    """Activities that may run as long as a lease; they have a queue of their own."""

    def __init__(self, ctx: HostContext) -> None:
        self._ctx = ctx

    @activity.defn(name="run_task", no_thread_cancel_exception=True)
    @boundary
    def run_task(self, asked: RunInput) -> RunResult:
        """Run a Task's command once and follow it, across restarts. Raises EngineError.

        Cancelling kills its process group; the end of the lease or of the container is an answer.
        """
        with beating():
            record = self._live(asked.lease)
            if record is None or record.lease is None or record.lease.token != asked.lease.token:
                return self._over(asked.lease, RunResult(outcome="ended"))
            run = _Run("task", asked.command, asked.timeout_s, asked.workdir, asked.env)
            job = self._job(record, asked.lease, run)
            result = run_job(self._ctx.engine, job, _check)
            return self._over(asked.lease, result) if result.outcome == "died" else result

    @activity.defn(name="run_hook", no_thread_cancel_exception=True)
    @boundary
    def run_hook(self, asked: HookInput) -> HookResult:
        """Run one claim hook; its end is noted in the lease file. Raises EngineError."""
        with beating():
            self._beat(asked.lease)
            if asked.brings:
                self._wait_for_personal(asked.lease)
            record = self._live(asked.lease)
            if record is None:
                ran = self._over(asked.lease, RunResult(outcome="ended"))
            else:
                line = ("/bin/sh", "-ec", asked.line)
                run = _Run(f"hook-{asked.index + 1}", line, asked.limit_s)
                job = self._job(record, asked.lease, run)
                ran = run_job(self._ctx.engine, job, partial(self._beat, asked.lease))
            result = HookResult(
                index=asked.index,
                line=asked.line,
                exit_code=ran.exit_code,
                detail="" if ran.outcome == "exited" else ran.detail or ran.outcome,
                tail=(ran.stdout_tail + ran.stderr_tail)[-4096:],
                output=ran.output,
                seconds=ran.seconds,
            )
            if result.failed or asked.last:
                self._note(asked.lease, told(result))
            return result

    def _job(self, record: SlotRecord, lease: Lease, run: _Run) -> Job:
        folder = self._ctx.paths.task(lease.pool, lease.claim_id)
        key = f"{run.name}-{lease.token}"
        runner = wrapped(run.command, job_place(key), run.workdir or record.workdir)
        return Job(
            key=key,
            folder=folder if run.name == "task" else folder / run.name,
            command=slot_exec(record, exec_command(record, runner), run.env),
            limit_s=run.limit_s,
            secrets=tuple(read_secrets(self._ctx.paths, record).values()),
        )

    def _live(self, lease: Lease) -> SlotRecord | None:
        """The record of the container while the claim lives, if need be under its next holder."""
        record = read_slot(self._ctx.paths, lease.container)
        held = record.lease if record is not None else None
        live = held is not None and _is_same(held, lease) and not held.ended
        return record if live else None

    def _beat(self, lease: Lease) -> None:
        """As ``_check``; who waits for the claim's hooks is still there."""
        _check()
        if lease.heartbeat_s:
            beat(self._ctx.paths, lease.container)

    def _over(self, lease: Lease, result: RunResult) -> RunResult:
        """A container that does not run any more: whether its lease ended first, and why."""
        record = read_slot(self._ctx.paths, lease.container)
        held = record.lease if record is not None else None
        why = held.end_reason if held is not None and held.ended else ""
        if why in {"", "died"} and result.outcome == "died":
            return result.model_copy(update={"detail": "the container does not run any more"})
        return result.model_copy(
            update={"outcome": "ended", "detail": f"the lease ended: {why or 'removed'}"}
        )

    def _wait_for_personal(self, lease: Lease) -> None:
        deadline = time.monotonic() + PERSONAL_PATIENCE_S
        while time.monotonic() < deadline:
            record = self._live(lease)
            if record is None or record.lease is None or record.lease.personal_armed:
                return
            self._beat(lease)
            time.sleep(_LOOK_S)

    def _note(self, lease: Lease, failed: str) -> None:
        with locked_slot(self._ctx.paths, lease.container) as record:
            if record is None or record.lease is None or not _is_same(record.lease, lease):
                return
            held = record.lease.model_copy(update={"hooks_done": True, "failed_hook": failed})
            write_slot(self._ctx.paths, record.model_copy(update={"lease": held}))


def _is_same(held: HostLease, lease: Lease) -> bool:
    """Whether it is that claim, as granted or transferred since."""
    return held.claim_id == lease.claim_id and held.token >= lease.token


def _check() -> None:
    """Raise CancelledError when the command is not wanted any more.

    A worker that stops leaves it running: the next one follows it.
    """
    if not activity.in_activity():
        return
    if activity.is_worker_shutdown():
        raise EngineError("the worker is stopping; the command goes on")
    if activity.is_cancelled():
        details = activity.cancellation_details()
        if details is None or details.cancel_requested:
            raise CancelledError("the command was ended")
        raise EngineError("another try follows the command")
