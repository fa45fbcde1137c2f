"""Commands that outlive who started them, secrets that come sealed or by name, claim hooks."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, Repo, pool_config
from making import Made, Slot, build_snapshot, lease_of, ready_slot, remove, sh
from temporalio.exceptions import ApplicationError, CancelledError

from activities import tasks
from activities.host_secrets import public_key
from activities.leases import Leases, close
from activities.slotfiles import read_slot
from activities.tasks import Tasks
from greenroom.core.errors import EngineError
from greenroom.core.lifecycle import EndReason
from greenroom.core.orders import ArmInput, EndInput
from greenroom.core.records import Lease
from greenroom.core.sealed import Content
from greenroom.core.task_messages import HookInput, RunInput, RunResult, told

pytestmark = pytest.mark.docker
SECRET = "s3cr3t-of-the-claim"


@pytest.fixture(scope="module")
def made(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Made:
    repo = Repo(tmp_path_factory.mktemp("tasks") / "source")
    repo.commit({"hello.txt": "hello\n", "sub/here.txt": "here\n"})
    config = pool_config(str(repo.path), name="tasked", hooks={"claim": ["true"]})
    return repo, config, build_snapshot(host, config)


@pytest.fixture
def slot(host: Host, made: Made) -> Iterator[Slot]:
    _, config, snapshot = made
    ready = ready_slot(host, config, snapshot)
    yield ready
    remove(host, ready)


@pytest.fixture
def lease(host: Host, slot: Slot) -> Lease:
    """Armed by the durable driver, with a sealed value."""
    one = lease_of(slot)
    key = public_key(host.paths, one.pool)
    sealed = {"TOKEN": key.seal(Content(pool=one.pool, name="TOKEN", value=SECRET))}
    Leases(host.ctx).arm_lease(ArmInput(lease=one, sealed=sealed))
    return one


def sh_run(lease: Lease, script: str, **fields: object) -> RunInput:
    return RunInput.model_validate({"lease": lease, "command": ("sh", "-c", script), **fields})


def until(host: Host, slot: Slot, test: str) -> None:
    done = sh(host, slot, f"for i in $(seq 300); do {test} && exit; sleep 0.1; done; exit 1")
    assert done.code == 0, test


def test_a_commands_code_output_and_surroundings(host: Host, lease: Lease) -> None:
    script = 'echo "$TOKEN $MODE"; pwd; cat here.txt; echo bad >&2; exit 7'
    asked = sh_run(lease, script, env={"MODE": "quick"}, workdir="/workspace/sub")
    result = Tasks(host.ctx).run_task(asked)
    assert (result.outcome, result.exit_code) == ("exited", 7)
    assert result.stdout_tail == "[secret] quick\n/workspace/sub\nhere\n"
    assert result.stderr_tail == "bad\n"
    folder = Path(result.output)
    assert (folder / "stdout").read_text().startswith(SECRET)  # the host's file is whole
    assert (folder / "stdout").stat().st_mode & 0o077 == 0
    assert Tasks(host.ctx).run_task(asked) == result  # an answer that got lost is given again


def test_much_output_is_kept_and_its_end_is_told(host: Host, lease: Lease) -> None:
    result = Tasks(host.ctx).run_task(sh_run(lease, "seq 300000; seq 1000 >&2"))
    whole = "".join(f"{number}\n" for number in range(1, 300001))
    assert (Path(result.output) / "stdout").read_text() == whole
    assert whole.endswith(result.stdout_tail)
    assert len(result.stdout_tail) == 4096


def test_what_cannot_run_says_so_by_its_code(host: Host, slot: Slot, made: Made) -> None:
    one = lease_of(slot)
    Leases(host.ctx).arm_lease(ArmInput(lease=one))
    gone = Tasks(host.ctx).run_task(
        RunInput(lease=one, command=("no-such-program",), workdir="/workspace")
    )
    assert gone.exit_code == 127
    two = lease_of(slot, token=2)
    Leases(host.ctx).arm_lease(ArmInput(lease=two))
    nowhere = Tasks(host.ctx).run_task(RunInput(lease=two, command=("true",), workdir="/nowhere"))
    assert nowhere.exit_code == 126
    assert "/nowhere" in nowhere.stderr_tail


class _Stopped(Exception):  # noqa: N818
    pass


def test_a_command_whose_follower_is_killed_is_followed_on_and_not_started_twice(
    host: Host, slot: Slot, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sh_run(lease, "echo start >> /tmp/starts; echo one; until [ -e /tmp/go ]; do sleep 0.1;"
                   " done; echo two; exit 4")  # fmt: skip
    output = host.paths.task(lease.pool, lease.claim_id) / "stdout"

    def stop_once_seen() -> None:
        if output.exists() and output.read_text() == "one\n":
            raise _Stopped

    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(tasks, "_check", stop_once_seen)
            with pytest.raises(_Stopped):
                Tasks(host.ctx).run_task(asked)
    sh(host, slot, "touch /tmp/go")
    result = Tasks(host.ctx).run_task(asked)
    assert (result.outcome, result.exit_code, result.reattached) == ("exited", 4, True)
    assert result.stdout_tail == output.read_text() == "one\ntwo\n"
    assert sh(host, slot, "cat /tmp/starts").stdout == "start\n"


def test_a_start_that_nobody_knows_the_outcome_of_is_asked_again_and_happens_once(
    host: Host, slot: Slot, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sh_run(lease, "echo start >> /tmp/starts")
    begin = host.ctx.engine.start_detached

    def break_off(command: object) -> None:
        begin(command)  # type: ignore[arg-type]
        raise EngineError("the worker died before it could note the start")

    with monkeypatch.context() as patched:
        patched.setattr(host.ctx.engine, "start_detached", break_off)
        with pytest.raises((ApplicationError, EngineError)):
            Tasks(host.ctx).run_task(asked)
    assert Tasks(host.ctx).run_task(asked).exit_code == 0
    assert sh(host, slot, "cat /tmp/starts").stdout == "start\n"


def test_cancelling_kills_the_whole_group(
    host: Host, slot: Slot, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = host.paths.task(lease.pool, lease.claim_id) / "stdout"

    def cancel_once_seen() -> None:
        if output.exists() and output.read_text() == "on\n":
            raise CancelledError("not wanted any more")

    monkeypatch.setattr(tasks, "_check", cancel_once_seen)
    with pytest.raises(CancelledError):
        Tasks(host.ctx).run_task(sh_run(lease, "sleep 4242 & echo on; sleep 4242"))
    until(host, slot, "! pgrep -f '[s]leep 4242' >/dev/null")


def test_a_command_past_its_time_is_killed(host: Host, slot: Slot, lease: Lease) -> None:
    result = Tasks(host.ctx).run_task(sh_run(lease, "echo on; sleep 4242", timeout_s=1))
    assert (result.outcome, result.exit_code, result.stdout_tail) == ("timed_out", None, "on\n")
    until(host, slot, "! pgrep -f '[s]leep 4242' >/dev/null")


def test_a_command_that_kills_its_watcher_is_lost_not_awaited_for_ever(
    host: Host, lease: Lease
) -> None:
    result = Tasks(host.ctx).run_task(sh_run(lease, "echo on; kill -9 $PPID; sleep 4242"))
    assert result.outcome == "lost"
    assert result.stdout_tail == "on\n"
    assert result.detail


@pytest.mark.parametrize(("by_lease", "outcome"), [(True, "ended"), (False, "died")])
def test_the_end_of_lease_or_container_is_an_answer(
    host: Host, slot: Slot, lease: Lease, by_lease: bool, outcome: str
) -> None:
    found: list[RunResult] = []
    run = threading.Thread(
        target=lambda: found.append(
            Tasks(host.ctx).run_task(sh_run(lease, "touch /tmp/on; sleep 4242"))
        )
    )
    run.start()
    until(host, slot, "[ -e /tmp/on ]")
    if by_lease:
        end = EndInput(
            pool=lease.pool, container=lease.container, claim_id=lease.claim_id,
            token=lease.token, reason=EndReason.EXPIRED,
        )  # fmt: skip
        close(host.ctx, end)
    else:
        subprocess.run(["docker", "kill", slot.docker_id], check=True, capture_output=True)
    run.join()
    assert found[0].outcome == outcome
    assert ("expired" in found[0].detail) is by_lease


def test_a_bad_sealed_value_arms_nothing(host: Host, slot: Slot) -> None:
    one = lease_of(slot)
    other = public_key(host.paths, "another").seal(Content(pool="another", name="T", value="x"))
    with pytest.raises(ApplicationError) as caught:
        Leases(host.ctx).arm_lease(ArmInput(lease=one, sealed={"T": other}))
    assert caught.value.type == "secret"
    assert caught.value.non_retryable
    record = read_slot(host.paths, slot.container)
    assert record is not None
    assert record.lease is None


def test_a_members_value_is_sealed_for_its_group_and_opened_once(host: Host, slot: Slot) -> None:
    one = lease_of(slot).model_copy(update={"claim_id": "g.1", "group": "g", "group_size": 2})
    key = public_key(host.paths, one.pool)
    sealed = {"T": key.seal(Content(pool=one.pool, name="T", value=SECRET, claim_id="g"))}
    Leases(host.ctx).arm_lease(ArmInput(lease=one, sealed=sealed))
    assert sh(host, slot, "cat /run/greenroom/secrets/T").stdout == SECRET
    expired = {"T": key.seal(Content(pool=one.pool, name="T", value="x", expires_at=1.0))}
    passed = one.model_copy(update={"token": one.token + 1, "holder": "bob"})
    Leases(host.ctx).arm_lease(ArmInput(lease=passed, sealed=expired))
    record = read_slot(host.paths, slot.container)
    assert record is not None
    assert record.lease is not None
    assert (record.lease.holder, record.lease.personal_armed) == ("bob", True)


def test_hooks_run_as_the_holder_and_their_end_stands_in_the_lease_file(
    host: Host, slot: Slot, lease: Lease
) -> None:
    def hook(index: int, line: str, last: bool) -> HookInput:
        owing = lease.model_copy(update={"heartbeat_s": 60.0})
        return HookInput(lease=owing, index=index, line=line, limit_s=60, last=last)

    def noted() -> tuple[bool, str]:
        record = read_slot(host.paths, slot.container)
        assert record is not None
        assert record.lease is not None
        return record.lease.hooks_done, record.lease.failed_hook

    first = Tasks(host.ctx).run_hook(hook(0, 'id -u; echo "$TOKEN"', last=False))
    assert (first.failed, first.tail) == (False, "1000\n[secret]\n")
    assert noted() == (False, "")
    assert host.paths.slot_beat(slot.container).exists()
    passed = lease.model_copy(update={"token": lease.token + 1, "holder": "bob"})
    Leases(host.ctx).arm_lease(ArmInput(lease=passed))  # a transfer does not end them
    second = Tasks(host.ctx).run_hook(hook(1, "echo why; exit 3", last=True))
    assert second.exit_code == 3
    assert noted() == (True, told(second))
    assert told(second) == "claim hook 2 failed with code 3: echo why; exit 3"
