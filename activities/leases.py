"""Leases on the host: armed, extended, closed. The lease file is changed under its lock only.

``arm`` is on the path of every claim: one inspect, two small writes, one word to the gate, and
the personal files.
"""

from __future__ import annotations

import time

from temporalio import activity

from activities.beats import last_beat_age
from activities.boundary import beating, boundary
from activities.containers import exec_environment
from activities.context import HostContext
from activities.host_secrets import Wanted, fetch
from activities.leasefiles import renew_lease_files, write_lease_files
from activities.making import detach
from activities.personal import ENV_FILE, Personal, check_personal, write_personal
from activities.profiles import PERSONAL, name_of
from activities.saving import save_work
from activities.slotfiles import (
    index_claim,
    locked_slot,
    read_slot,
    slot_of_claim,
    write_slot,
)
from greenroom.core.errors import CorpseError, FencedError, NotFoundError
from greenroom.core.messages import ExtendReply
from greenroom.core.orders import (
    ArmedLease,
    ArmInput,
    EndInput,
    ExtendInput,
    LastBeat,
    SlotRef,
    WarnInput,
)
from greenroom.core.policy import Phase
from greenroom.core.records import Done, Lease, SavedWork
from greenroom.core.slotfile import HostLease, SlotRecord
from greenroom.gate.control import GateRefused, GateUnavailable

__all__ = [
    "Leases",
    "Personal",
    "arm",
    "check_personal",
    "close",
    "exec_command",
    "exec_environment",
    "extend",
    "locked_slot",
    "read_slot",
    "slot_of_claim",
    "write_slot",
]


class Leases:
    """Activities on leases; only the container's own workflow calls them."""

    def __init__(self, ctx: HostContext) -> None:
        self._ctx = ctx

    @activity.defn(name="arm_lease", no_thread_cancel_exception=True)
    @boundary
    def arm_lease(self, asked: ArmInput) -> ArmedLease:
        """The durable driver's part of arming: the policy, and what came sealed or by name.

        Raises CorpseError, FencedError, SecretError, UsageError.
        """
        with beating():
            arm(self._ctx, asked.lease, self._personal(asked))
        return ArmedLease(armed=True)

    def _personal(self, asked: ArmInput) -> Personal | None:
        """None when the claim brings nothing, or when it is there already."""
        lease, paths = asked.lease, self._ctx.paths
        if not asked.sealed and not asked.host_secrets:
            return None
        record = read_slot(paths, lease.container)
        held = record.lease if record is not None else None
        if held is not None and held.claim_id == lease.claim_id and held.personal_armed:
            return None
        # A group's values are sealed for the group: nobody knows its members before it is granted.
        claim_id = lease.group or lease.claim_id
        wanted = Wanted(lease.pool, claim_id, asked.sealed, asked.host_secrets)
        return fetch(paths, wanted, Personal())

    @activity.defn(name="extend_lease", no_thread_cancel_exception=True)
    @boundary
    def extend_lease(self, asked: ExtendInput) -> ExtendReply:
        """Write a later end into the lease file. Raises FencedError, NotFoundError."""
        return extend(self._ctx, asked)

    @activity.defn(name="warn_lease", no_thread_cancel_exception=True)
    @boundary
    def warn_lease(self, asked: WarnInput) -> Done:
        """Tell the holder that the lease ends soon. Raises FencedError, NotFoundError."""
        warn(self._ctx, asked)
        return Done()

    @activity.defn(name="last_beat", no_thread_cancel_exception=True)
    @boundary
    def last_beat(self, asked: SlotRef) -> LastBeat:
        """When the holder was last heard of."""
        return LastBeat(age_s=last_beat_age(self._ctx.paths, asked.container))

    @activity.defn(name="close_lease", no_thread_cancel_exception=True)
    @boundary
    def close_lease(self, asked: EndInput) -> Done:
        """Refuse the token and close the gate, then stop the container. Raises EngineError."""
        close(self._ctx, asked)
        return Done()

    @activity.defn(name="save_work", no_thread_cancel_exception=True)
    @boundary
    def save_work(self, asked: EndInput) -> SavedWork:
        """Keep the work of the ended claim. Raises EngineError."""
        with beating():
            return save_work(self._ctx, asked)


def arm(ctx: HostContext, lease: Lease, personal: Personal | None) -> None:
    """Make a granted container its holder's: the policy, and ``personal`` when it is given.

    Each part is done once and marked; doing it again changes nothing. Raises CorpseError (the
    container does not run), FencedError (an older token, or the lease has ended), UsageError (bad
    personal files), GateUnavailable, EngineError.
    """
    if personal is not None:
        check_personal(personal)
    with locked_slot(ctx.paths, lease.container) as record:
        if record is None:
            raise CorpseError(f"container {lease.container} is not on this host any more")
        held = _held_by(record, lease)
        claimed = record.model_copy(update={"phase": Phase.CLAIMED, "lease": held})
        if held.policy_armed and (personal is None or held.personal_armed):
            if held != record.lease:  # another holder: what was armed stays
                write_slot(ctx.paths, claimed)
                renew_lease_files(ctx.paths, claimed)
            return
        _check_runs(ctx, record)
        if not held.policy_armed:
            write_lease_files(ctx.paths, claimed)
            write_slot(ctx.paths, claimed)
            index_claim(ctx.paths, lease.claim_id, lease.container)
            _apply(ctx, claimed)
        if personal is not None and not held.personal_armed:
            write_personal(ctx.paths, claimed, personal)
        armed = held.model_copy(
            update={
                "policy_armed": True,
                "personal_armed": held.personal_armed or personal is not None,
            }
        )
        write_slot(ctx.paths, claimed.model_copy(update={"lease": armed}))


def extend(ctx: HostContext, asked: ExtendInput) -> ExtendReply:
    """The lease's end, never an earlier one than before. Raises FencedError, NotFoundError."""
    with locked_slot(ctx.paths, asked.container) as found:
        record, lease = _live(found, asked)
        end = max(lease.expires_at, asked.expires_at)
        held = lease.held or asked.hold
        extended = record.model_copy(
            update={"lease": lease.model_copy(update={"expires_at": end, "held": held})}
        )
        write_slot(ctx.paths, extended)
        renew_lease_files(ctx.paths, extended)
        if lease.expires_at <= time.time():
            _tell_gate(ctx, asked.container)  # at the old end it closed by itself
        return ExtendReply(expires_at=end, held=held)


def warn(ctx: HostContext, asked: WarnInput) -> None:
    """Say in the container that its lease ends soon, unless it was extended meanwhile.

    Raises FencedError, NotFoundError.
    """
    with locked_slot(ctx.paths, asked.container) as found:
        record, lease = _live(found, asked)
        if lease.expires_at <= asked.expires_at:
            renew_lease_files(ctx.paths, record, ending_soon=True)


def _live(
    record: SlotRecord | None, asked: ExtendInput | WarnInput
) -> tuple[SlotRecord, HostLease]:
    if record is None:
        raise NotFoundError(f"container {asked.container} is not on this host any more")
    lease = record.lease
    if lease is None or lease.token != asked.token or lease.ended:
        raise FencedError(f"token {asked.token} is not that of the live lease")
    return record, lease


def close(ctx: HostContext, asked: EndInput) -> None:
    """End a lease on the host, in order: token refused, gate closed, processes killed, stopped.

    Idempotent; an unknown container is success. Raises EngineError.
    """
    with locked_slot(ctx.paths, asked.container) as record:
        if record is None:
            return
        ended = _ended(record, asked)
        write_slot(ctx.paths, ended)
        _tell_gate(ctx, asked.container)
    ctx.engine.kill(ended.docker_id or name_of(ctx, ended))
    detach(ctx, asked.container)


def _tell_gate(ctx: HostContext, container: str) -> None:
    try:
        ctx.gate.apply(container)
    except GateRefused:
        pass  # it holds no listeners of this container: nothing is open
    except GateUnavailable:
        # A gate that is down has nothing open and reads the lease file when it is back; one that
        # hangs loses an ended container's sockets with the container, which is stopped next.
        activity.logger.warning("gate not told of the lease of %s", container)


def exec_command(record: SlotRecord, command: tuple[str, ...]) -> tuple[str, ...]:
    """A holder's command with the holder's variables around it, once they are there."""
    if record.lease is None or not record.lease.personal_armed:
        return command
    script = f'set -a; . {PERSONAL}/{ENV_FILE}; set +a; exec "$@"'
    return ("/bin/sh", "-c", script, "greenroom", *command)


def _held_by(record: SlotRecord, lease: Lease) -> HostLease:
    """The lease as the file has it, a fresh one, or the same with its next holder.

    Raises FencedError.
    """
    held = record.lease
    if held is not None and (held.token > lease.token or held.ended):
        raise FencedError(f"token {lease.token} is not that of the live lease")
    if record.phase is Phase.ENDED:
        raise FencedError(f"container {record.container} has ended")
    if held is not None and held.claim_id != lease.claim_id:
        raise FencedError(f"container {record.container} belongs to another claim")
    if held is None:
        return HostLease(
            claim_id=lease.claim_id,
            holder=lease.holder,
            token=lease.token,
            expires_at=lease.expires_at,
            heartbeat_s=lease.heartbeat_s,
            held=lease.held,
        )
    if held.token < lease.token:
        later = max(held.expires_at, lease.expires_at)  # an extension may still be on its way
        passed = {"holder": lease.holder, "token": lease.token, "expires_at": later}
        return held.model_copy(update=passed)
    return held


def _check_runs(ctx: HostContext, record: SlotRecord) -> None:
    seen = ctx.engine.inspect(record.docker_id or name_of(ctx, record))
    if seen is None or not seen["State"]["Running"] or seen["State"].get("Paused"):
        raise CorpseError(f"container {record.container} is not running")


def _apply(ctx: HostContext, record: SlotRecord) -> None:
    try:
        ctx.gate.apply(record.container)
    except GateRefused:
        # The gate came back and has not attached it yet, or never could.
        try:
            ctx.gate.attach(record.container)
        except GateRefused as error:
            raise CorpseError(
                f"container {record.container} cannot be given its network: {error.message}"
            ) from error


def _ended(record: SlotRecord, asked: EndInput) -> SlotRecord:
    lease = record.lease
    if lease is None and asked.claim_id:
        # Never armed here; whoever still tries must be refused by the token.
        lease = HostLease(claim_id=asked.claim_id, token=asked.token, expires_at=0.0)
    if lease is not None and not lease.ended:
        lease = lease.model_copy(update={"ended": True, "end_reason": str(asked.reason)})
    return record.model_copy(update={"phase": Phase.ENDED, "lease": lease})
