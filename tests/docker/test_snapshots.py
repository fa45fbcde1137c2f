"""Snapshots on the real engine: built, proved, reused, and failing with a face."""

from typing import Any

import pytest
from hosts import Host, Repo, pool_config
from making import build_snapshot, ready_slot, remove
from temporalio.exceptions import ApplicationError

from activities import builders
from activities.builders import remove_leftovers
from activities.engine import Exec, no_tick
from activities.images import Images
from activities.repos import look
from activities.slotfiles import all_slots, read_slot
from activities.snapshots import clear_out, find_record
from greenroom.core.config import PoolConfig
from greenroom.core.errors import PreparationError, StepTimeoutError
from greenroom.core.names import LABEL_FINGERPRINT, LABEL_INSTALL
from greenroom.core.orders import BuilderRef, BuilderStep, LookInput
from greenroom.core.pool_messages import SnapshotInput
from greenroom.core.records import StepRecord

pytestmark = pytest.mark.docker


def start_builder(host: Host, config: PoolConfig) -> tuple[SnapshotInput, BuilderRef]:
    source = look(host.ctx, host.registries, LookInput(pool=config.name, config=config))
    asked = SnapshotInput(pool=config.name, config=config, source=source)
    return asked, builders.start(host.ctx, host.registries, asked)


def run_step(
    host: Host, asked: SnapshotInput, ref: BuilderRef, name: str, index: int = 0
) -> StepRecord:
    step = BuilderStep(builder=ref, step=name, index=index, snapshot=asked)
    return builders.step(host.ctx, host.registries, step)


def test_a_snapshot_is_built_proved_and_tagged_and_leaves_no_container(
    host: Host, repo: Repo
) -> None:
    config = pool_config(str(repo.path), name="build")
    record = build_snapshot(host, config)
    assert record.source.commit == repo.git("rev-parse", "HEAD")
    image = host.ctx.engine.inspect_image(record.image_tag)
    assert image["Id"] == record.image_id
    assert image["Config"]["Labels"][LABEL_INSTALL] == host.ctx.settings.install_id
    assert image["Config"]["Labels"][LABEL_FINGERPRINT] == record.source.fingerprint
    base = host.ctx.engine.inspect_image(config.image)["Config"]
    for key in ("Env", "Cmd", "User", "WorkingDir", "Entrypoint"):
        assert (image["Config"].get(key) or None) == (base.get(key) or None), key
    assert [step.name for step in record.steps] == ["clone", "install", "build"] + ["verify"] * 2
    assert find_record(host.ctx, "build", record.source.fingerprint) == record
    assert not host.objects()
    assert not all_slots(host.paths)


def test_nothing_of_the_lines_environment_ends_in_the_image(host: Host, repo: Repo) -> None:
    config = pool_config(
        str(repo.path),
        name="envs",
        env={"MARKER": "provisioning-value"},
        install=['test "$MARKER" = provisioning-value && test -n "$https_proxy"'],
        build=["mkdir built && touch built/out built/deps"],
    )
    record = build_snapshot(host, config)
    assert "provisioning-value" not in str(host.ctx.engine.inspect_image(record.image_id))


def test_system_lines_run_as_root_and_the_others_as_the_user(host: Host, repo: Repo) -> None:
    config = pool_config(
        str(repo.path),
        name="users",
        system=["test $(id -u) = 0 && touch /etc/by-root && chown 12:12 /etc/by-root"],
        install=["test $(id -un) = agent && mkdir built && touch built/deps"],
    )
    steps = build_snapshot(host, config).steps
    assert steps[0].name == "system"


VSOCK = """
import socket
try:
    socket.socket(40, socket.SOCK_STREAM)
except PermissionError:
    print("no way out")
"""


def test_root_in_a_builder_has_what_packages_need_and_no_way_to_the_hypervisor(
    host: Host, repo: Repo
) -> None:
    asked, ref = start_builder(host, pool_config(str(repo.path), name="rooted"))
    script = f"python3 -c '{VSOCK}' && chroot / true && useradd --system somebody && id -u"
    try:
        as_root = Exec(ref.docker_id, ("sh", "-c", script), user="0")
        done = host.ctx.engine.capture(as_root, no_tick)
    finally:
        remove_leftovers(host.ctx, "builder", (asked.pool, asked.source.fingerprint))
    assert (done.code, done.stdout, done.stderr) == (0, "no way out\n0\n", "")


def test_a_failing_line_says_code_line_and_tail_and_can_be_looked_up(
    host: Host, repo: Repo
) -> None:
    config = pool_config(
        str(repo.path), name="fails", build=["echo to-the-log; echo the reason >&2; exit 7"]
    )
    asked, ref = start_builder(host, config)
    try:
        run_step(host, asked, ref, "clone")
        run_step(host, asked, ref, "install")
        with pytest.raises(PreparationError, match="build failed with code 7") as failed:
            run_step(host, asked, ref, "build")
    finally:
        Images(host.ctx).remove_builder(ref)
    assert failed.value.details["step"] == "build"
    assert "the reason" in failed.value.details["tail"]
    log = host.paths.build_log("fails", asked.source.fingerprint).read_text()
    assert "to-the-log" in log
    assert not host.objects()


def test_a_hanging_line_is_ended_with_all_that_it_started(host: Host, repo: Repo) -> None:
    config = pool_config(
        str(repo.path),
        name="hangs",
        build=["setsid sleep 1000 & echo started; sleep 1000"],
        timeouts={"build": "2s"},
    )
    asked, ref = start_builder(host, config)
    try:
        run_step(host, asked, ref, "clone")
        with pytest.raises(StepTimeoutError, match="longer than 2 s") as failed:
            run_step(host, asked, ref, "build")
        assert failed.value.details["tail"] == "started"
        listed = host.ctx.engine.capture(
            Exec(ref.docker_id, ("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")), no_tick
        )
        assert "sleep 1000" not in listed.stdout
        assert "sleep infinity" in listed.stdout  # the container itself lives on
    finally:
        Images(host.ctx).remove_builder(ref)


def test_a_line_that_leaves_a_daemon_holding_its_output_ends(host: Host, repo: Repo) -> None:
    config = pool_config(str(repo.path), name="daemon", build=["sleep 1000 & echo done"])
    asked, ref = start_builder(host, config)
    try:
        run_step(host, asked, ref, "clone")
        assert run_step(host, asked, ref, "build").name == "build"
    finally:
        Images(host.ctx).remove_builder(ref)


def test_a_verify_line_that_fails_removes_the_image(host: Host, repo: Repo) -> None:
    config = pool_config(str(repo.path), name="unproved", verify=["echo no good; false"])
    with pytest.raises(ApplicationError, match="verify failed"):
        build_snapshot(host, config)
    assert not host.objects()
    labels = {LABEL_INSTALL: host.ctx.settings.install_id, "greenroom.pool": "unproved"}
    assert host.ctx.engine.images(labels) == []


def test_the_verify_lines_see_what_a_claim_sees(host: Host, repo: Repo) -> None:
    config = pool_config(
        str(repo.path),
        name="asclaimed",
        verify=[
            "grep -q 'NoNewPrivs:.1' /proc/self/status",
            "grep -q 'CapBnd:.0000000000000000' /proc/self/status",
            "test -d /run/greenroom && ! touch /run/greenroom/x 2>/dev/null",
            "git fetch -q origin",
        ],
    )
    build_snapshot(host, config)


def test_a_builder_started_again_replaces_the_one_before(host: Host, repo: Repo) -> None:
    config = pool_config(str(repo.path), name="again")
    asked, first = start_builder(host, config)
    second = builders.start(host.ctx, host.registries, asked)
    try:
        assert first.builder != second.builder
        assert read_slot(host.paths, first.builder) is None
        assert len(host.objects()) == 1
    finally:
        remove_leftovers(host.ctx, "builder", (asked.pool, asked.source.fingerprint))
    assert not host.objects()


def test_two_pools_of_one_recipe_leave_each_others_builders_alone(host: Host, repo: Repo) -> None:
    made = [start_builder(host, pool_config(str(repo.path), name=name)) for name in ("one", "two")]
    (asked, first), (other, _) = made
    assert asked.source.fingerprint == other.source.fingerprint
    try:
        assert run_step(host, asked, first, "clone").name == "clone"
    finally:
        for each, _ in made:
            remove_leftovers(host.ctx, "builder", (each.pool, each.source.fingerprint))
    assert not host.objects()


def test_a_new_commit_with_the_same_dependencies_installs_nothing_again(
    host: Host, repo: Repo
) -> None:
    config = pool_config(
        str(repo.path),
        name="reuse",
        install=["mkdir -p built && date +%s%N > built/deps"],
        sync=["touch built/synced"],
        build=["cp hello.txt built/out"],
        verify=["cmp hello.txt built/out"],
    )
    first = build_snapshot(host, config)
    repo.commit({"hello.txt": "a new greeting\n"})
    second = build_snapshot(host, config)
    assert second.source.dependencies == first.source.dependencies
    assert second.source.fingerprint != first.source.fingerprint
    assert [s.reused for s in second.steps if s.name == "install"] == [True]
    slot = ready_slot(host, config, second)
    try:
        command = ("sh", "-c", "cat hello.txt; ls built; git status --porcelain")
        seen = host.ctx.engine.capture(Exec(slot.docker_id, command), no_tick)
        assert seen.stdout.split("\n")[0] == "a new greeting"
        assert "synced" in seen.stdout
    finally:
        remove(host, slot)


def test_only_the_two_newest_snapshots_stay_unless_a_container_uses_an_older(
    host: Host, repo: Repo
) -> None:
    config = pool_config(str(repo.path), name="keeps")
    first = build_snapshot(host, config)
    slot = ready_slot(host, config, first)
    later = []
    for number in range(3):
        repo.commit({"hello.txt": f"{number}\n"})
        later.append(build_snapshot(host, config))
    there = [
        host.ctx.engine.inspect_image(record.image_tag) is not None for record in (first, *later)
    ]
    assert there == [True, False, True, True]
    remove(host, slot)
    assert clear_out(host.ctx, "keeps") == 1
    assert host.ctx.engine.inspect_image(first.image_tag) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repo": "/nowhere/at-all"}, "/nowhere/at-all cannot be read"),
        ({"ref": "no-such-branch"}, "no branch or tag 'no-such-branch'; it has: main"),
        ({"image": "greenroom-test/no-such-image:1"}, "no-such-image"),
        ({"lockfiles": ["gone.lock"]}, "'gone.lock'"),
    ],
)
def test_what_is_not_there_is_named(
    host: Host, repo: Repo, changes: dict[str, Any], said: str
) -> None:
    config = pool_config(changes.pop("repo", str(repo.path)), **changes)
    with pytest.raises(PreparationError) as failed:
        look(host.ctx, host.registries, LookInput(pool="tiny", config=config))
    assert said in failed.value.message
    assert failed.value.details["step"] == "source"


def test_an_image_that_runs_as_root_gets_a_user(host: Host, repo: Repo) -> None:
    if host.ctx.engine.inspect_image("greenroom-lab/min") is None:
        pytest.skip("no bare image on this machine")
    config = pool_config(str(repo.path), image="greenroom-lab/min", name="rooty")
    _, ref = start_builder(host, config)
    try:
        record = read_slot(host.paths, ref.builder)
        assert (record.user, record.uid) == ("agent", 1000)
        done = host.ctx.engine.capture(
            Exec(ref.docker_id, ("sh", "-c", "id -un; pwd; touch x"), user="1000", workdir=""),
            no_tick,
        )
        assert done.stdout.split() == ["agent", "/workspace"]
        assert done.code == 0
    finally:
        Images(host.ctx).remove_builder(ref)
