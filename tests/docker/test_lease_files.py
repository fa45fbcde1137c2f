"""What a claimed container knows of its lease, and what a transfer leaves as it is."""

import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hosts import Host, Repo, pool_config
from making import Made, Slot, build_snapshot, lease_of, ready_slot, remove, sh

from activities.beats import beat, beat_for_all, last_beat_age
from activities.leases import Personal, arm, close, extend, warn
from activities.slotfiles import read_slot
from greenroom.core.errors import FencedError
from greenroom.core.lifecycle import EndReason
from greenroom.core.orders import EndInput, ExtendInput, WarnInput
from greenroom.core.records import Lease
from greenroom.core.slotfile import HostLease

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def made(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Made:
    repo = Repo(tmp_path_factory.mktemp("lease-files") / "source")
    repo.commit({"hello.txt": "hello\n"})
    config = pool_config(str(repo.path), name="told", lease={"warn": "10m"}, build=[], verify=[])
    return repo, config, build_snapshot(host, config)


@pytest.fixture
def slot(host: Host, made: Made) -> Iterator[Slot]:
    _, config, snapshot = made
    ready = ready_slot(host, config, snapshot)
    yield ready
    remove(host, ready)


def told(host: Host, slot: Slot) -> Any:
    """``lease.json`` as the holder reads it."""
    return json.loads(sh(host, slot, "cat /run/greenroom/lease.json").stdout)


def on_host(host: Host, slot: Slot) -> HostLease:
    record = read_slot(host.paths, slot.container)
    assert record is not None
    assert record.lease is not None
    return record.lease


def longer(lease: Lease, **changes: object) -> ExtendInput:
    same = lease.model_dump(include={"pool", "container", "claim_id", "token", "expires_at"})
    return ExtendInput.model_validate({**same, **changes})


def test_a_holder_reads_its_lease_and_is_warned_in_it(host: Host, slot: Slot) -> None:
    lease = lease_of(slot, holder="ada")
    arm(host.ctx, lease, Personal())
    assert told(host, slot) == {
        "claim_id": lease.claim_id, "holder": "ada", "expires_at": lease.expires_at,
        "ending_soon": False, "held": False,
    }  # fmt: skip
    soon = WarnInput(
        pool="told", container=slot.container, token=lease.token, expires_at=lease.expires_at
    )
    warn(host.ctx, soon)
    assert told(host, slot)["ending_soon"] is True
    later = lease.expires_at + 3600
    extend(host.ctx, longer(lease, expires_at=later, hold=True))
    warn(host.ctx, soon)  # of an end that is not the lease's any more
    now = told(host, slot)
    assert (now["ending_soon"], now["expires_at"], now["held"]) == (False, later, True)
    with pytest.raises(FencedError):
        warn(host.ctx, soon.model_copy(update={"token": 99}))


def test_a_lease_that_begins_within_its_warning_says_so(host: Host, slot: Slot) -> None:
    arm(host.ctx, lease_of(slot, expires_at=time.time() + 60), None)
    assert told(host, slot)["ending_soon"] is True


def test_commits_have_an_author_by_default_and_the_repositorys_own_wins(
    host: Host, slot: Slot
) -> None:
    lease = lease_of(slot, holder='A\\b "the" <Lo>')
    arm(host.ctx, lease, None)
    commit = "git commit -q --allow-empty -m x && git log -1 --format='%an|%ae'"
    assert sh(host, slot, commit).stdout == f'A\\b "the" Lo|{lease.claim_id}@greenroom.invalid\n'
    own = f"git config user.name Own && git config user.email own@example.org && {commit}"
    assert sh(host, slot, own).stdout == "Own|own@example.org\n"
    # Still the user's to configure.
    assert sh(host, slot, "git config --global alias.x status").code == 0


def test_a_transfer_swaps_holder_and_token_and_nothing_else(host: Host, slot: Slot) -> None:
    lease = lease_of(slot, holder="ada")
    arm(host.ctx, lease, Personal(secrets={"KEY": "s3cret"}))
    extend(host.ctx, longer(lease, expires_at=lease.expires_at + 100))
    sh(host, slot, "sleep 600 >/dev/null 2>&1 & echo $! > /tmp/pid")
    passed = lease.model_copy(update={"token": lease.token + 1, "holder": "bob"})
    arm(host.ctx, passed, None)
    held = on_host(host, slot)
    assert (held.token, held.holder, held.personal_armed) == (passed.token, "bob", True)
    assert held.expires_at == lease.expires_at + 100
    assert told(host, slot)["holder"] == "bob"
    assert sh(host, slot, "kill -0 $(cat /tmp/pid) && echo $KEY").stdout == "s3cret\n"
    assert sh(host, slot, "git var GIT_AUTHOR_IDENT").stdout.startswith("bob ")
    before = on_host(host, slot)
    for refused in (
        lambda: arm(host.ctx, lease, Personal(secrets={"KEY": "old"})),
        lambda: extend(host.ctx, longer(lease, expires_at=lease.expires_at + 900)),
    ):
        with pytest.raises(FencedError):
            refused()
    assert on_host(host, slot) == before
    close(
        host.ctx,
        EndInput(
            pool="told",
            container=slot.container,
            claim_id=lease.claim_id,
            token=lease.token,
            reason=EndReason.EXPIRED,
        ),
    )
    with pytest.raises(FencedError):  # the workflow ended it before it heard of the next holder
        arm(host.ctx, passed.model_copy(update={"token": lease.token + 2}), None)


def test_a_heartbeat_is_a_files_time_and_silence_of_the_api_is_nobodys_fault(
    host: Host, slot: Slot
) -> None:
    arm(host.ctx, lease_of(slot, heartbeat_s=10), None)
    file = host.paths.slot_beat(slot.container)
    assert last_beat_age(host.paths, slot.container) == 0.0
    host.paths.run.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as api:
        api.bind(str(host.paths.api_socket))
        api.listen()
        try:
            assert last_beat_age(host.paths, slot.container) is None
            beat(host.paths, slot.container)
            os.utime(file, (time.time() - 500, time.time() - 500))
            age = last_beat_age(host.paths, slot.container)
            assert age is not None
            assert age >= 500
            beat_for_all(host.paths)
            age = last_beat_age(host.paths, slot.container)
            assert age is not None
            assert age < 500
        finally:
            host.paths.api_socket.unlink()
    remove(host, slot)
    assert not file.exists()
