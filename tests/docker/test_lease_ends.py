"""Arming, exec's surroundings, the end of a lease in its order, and the work that it leaves."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Host, Repo, pool_config
from making import Made, Slot, build_snapshot, lease_of, ready_slot, remove, sh

from activities.leases import Personal, arm, close, extend
from activities.saving import save_work
from activities.slotfiles import read_slot, slot_of_claim
from greenroom.core.errors import CorpseError, FencedError, UsageError
from greenroom.core.lifecycle import EndReason
from greenroom.core.orders import EndInput, ExtendInput
from greenroom.core.policy import Phase
from greenroom.core.records import Lease, SavedWork

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def made(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Made:
    repo = Repo(tmp_path_factory.mktemp("leases") / "source")
    repo.commit({"hello.txt": "hello\n", ".gitignore": "built/\n", "gone.txt": "x\n"})
    config = pool_config(str(repo.path), name="leased", limits={"personal": "1m"})
    return repo, config, build_snapshot(host, config)


@pytest.fixture
def slot(host: Host, made: Made) -> Iterator[Slot]:
    _, config, snapshot = made
    ready = ready_slot(host, config, snapshot)
    yield ready
    remove(host, ready)


def end_of(lease: Lease, reason: EndReason = EndReason.RELEASED, save: bool = True) -> EndInput:
    return EndInput(
        pool=lease.pool,
        container=lease.container,
        claim_id=lease.claim_id,
        token=lease.token,
        reason=reason,
        save=save,
    )


def claimed(host: Host, slot: Slot, personal: Personal | None = None) -> Lease:
    lease = lease_of(slot)
    arm(host.ctx, lease, personal or Personal())
    return lease


def ended(host: Host, lease: Lease, save: bool = True) -> SavedWork:
    close(host.ctx, end_of(lease))
    return save_work(host.ctx, end_of(lease, save=save))


# ── arming ───────────────────────────────────────────────────────────────────────────────────


def test_arming_opens_the_gate_writes_the_lease_and_the_personal_files(
    host: Host, slot: Slot
) -> None:
    personal = Personal(
        env={"COLOUR": 'it\'s "blue" $HOME\nsecond line'},
        secrets={"KEY": "s3cret"},
        files={"a/b.json": b"\x00\xff"},
        git_name="Ada Lo",
        git_email="ada@example.org",
    )
    lease = claimed(host, slot, personal)
    record = read_slot(host.paths, slot.container)
    assert record is not None
    assert record.phase is Phase.CLAIMED
    assert record.lease is not None
    assert (record.lease.policy_armed, record.lease.personal_armed) == (True, True)
    assert host.ctx.gate.list()[slot.container]["phase"] == "claimed"
    assert slot_of_claim(host.paths, lease.claim_id) == record
    assert sh(host, slot, 'printf %s "$COLOUR"').stdout == personal.env["COLOUR"]
    seen = sh(
        host, slot, "cat /run/greenroom/secrets/KEY; echo $KEY; stat -c %a /run/greenroom/env"
    )
    assert seen.stdout == "s3crets3cret\n400\n"
    assert sh(host, slot, "od -An -tx1 /run/greenroom/files/a/b.json").stdout.split() == [
        "00",
        "ff",
    ]
    assert "Ada Lo" in sh(host, slot, "git var GIT_AUTHOR_IDENT").stdout
    everything = json.dumps(host.ctx.engine.inspect(slot.docker_id)) + record.model_dump_json()
    assert "s3cret" not in everything


def test_personal_files_cannot_be_written_or_replaced_from_inside(host: Host, slot: Slot) -> None:
    claimed(host, slot, Personal(secrets={"KEY": "v"}))
    tried = sh(
        host, slot, "rm -f /run/greenroom/env; echo x > /run/greenroom/new; ls /run/greenroom"
    )
    assert tried.stdout.split() == ["env", "gitconfig", "lease.json", "secrets"]


def test_both_drivers_arm_each_part_once(host: Host, slot: Slot) -> None:
    lease = lease_of(slot)
    arm(host.ctx, lease, None)
    record = read_slot(host.paths, slot.container)
    assert record is not None
    assert record.lease is not None
    assert not record.lease.personal_armed
    arm(host.ctx, lease, Personal(env={"A": "1"}))
    arm(host.ctx, lease, Personal(env={"A": "2"}))
    arm(host.ctx, lease, None)
    assert sh(host, slot, "echo $A").stdout == "1\n"


def test_a_dead_container_is_a_corpse_unless_it_was_armed(
    host: Host, made: Made, slot: Slot
) -> None:
    lease = lease_of(slot)
    host.ctx.engine.kill(slot.docker_id)
    with pytest.raises(CorpseError):
        arm(host.ctx, lease, Personal())
    _, config, snapshot = made
    other = ready_slot(host, config, snapshot)
    held = claimed(host, other)
    host.ctx.engine.kill(other.docker_id)
    arm(host.ctx, held, None)  # it died in its holder's hands, which is another matter
    remove(host, other)
    with pytest.raises(CorpseError):
        arm(host.ctx, held, None)


def test_an_older_token_and_an_ended_lease_are_refused(host: Host, slot: Slot) -> None:
    lease = lease_of(slot, token=5)
    arm(host.ctx, lease, None)
    with pytest.raises(FencedError):
        arm(host.ctx, lease.model_copy(update={"token": 4}), None)
    with pytest.raises(FencedError):
        arm(host.ctx, lease.model_copy(update={"token": 6, "claim_id": "another"}), None)
    close(host.ctx, end_of(lease))
    with pytest.raises(FencedError):
        arm(host.ctx, lease, Personal())


def test_a_lease_that_ends_before_it_was_armed_can_never_be_armed(host: Host, slot: Slot) -> None:
    lease = lease_of(slot)
    close(host.ctx, end_of(lease))
    with pytest.raises(FencedError):
        arm(host.ctx, lease, Personal())


@pytest.mark.parametrize(
    "personal",
    [
        Personal(env={"A B": "x"}),
        Personal(env={"A;touch x": "x"}),
        Personal(env={"A": "nul\0"}),
        Personal(files={"../env": b""}),
        Personal(files={"/etc/passwd": b""}),
        Personal(files={"a//b": b""}),
        Personal(secrets={"../../x": "v"}),
        Personal(files={"big": b"x" * (2 << 20)}),
    ],
)
def test_personal_files_that_cannot_be_are_refused_without_their_values(
    host: Host, slot: Slot, personal: Personal
) -> None:
    with pytest.raises(UsageError):
        arm(host.ctx, lease_of(slot), personal)


def test_extending_is_fenced_and_never_shortens(host: Host, slot: Slot) -> None:
    lease = claimed(host, slot)

    def ask(token: int, end: float) -> float:
        asked = ExtendInput(
            pool=lease.pool,
            container=lease.container,
            claim_id=lease.claim_id,
            token=token,
            expires_at=end,
        )
        return extend(host.ctx, asked).expires_at

    later = lease.expires_at + 60
    assert ask(lease.token, later) == later
    assert ask(lease.token, lease.expires_at) == later
    with pytest.raises(FencedError):
        ask(lease.token + 1, later)
    close(host.ctx, end_of(lease))
    with pytest.raises(FencedError):
        ask(lease.token, later)


# ── the end ──────────────────────────────────────────────────────────────────────────────────


def test_the_end_refuses_the_token_closes_the_gate_and_stops_everything(
    host: Host, slot: Slot
) -> None:
    lease = claimed(host, slot)
    close(host.ctx, end_of(lease, EndReason.EXPIRED))
    record = read_slot(host.paths, slot.container)
    assert record is not None
    assert record.phase is Phase.ENDED
    assert record.lease is not None
    assert (record.lease.ended, record.lease.end_reason) == (True, "expired")
    assert slot.container not in host.ctx.gate.list()
    seen = host.ctx.engine.inspect(slot.docker_id)
    assert seen is not None
    assert not seen["State"]["Running"]
    close(host.ctx, end_of(lease))  # again is success


def test_a_lease_ends_although_the_gate_is_dead(host: Host, slot: Slot) -> None:
    lease = claimed(host, slot)
    host.gate.kill()
    try:
        close(host.ctx, end_of(lease))
    finally:
        host.gate.start()
    assert slot.container not in host.ctx.gate.list()


# ── saving ───────────────────────────────────────────────────────────────────────────────────


def test_untouched_work_is_clean_without_a_copy(host: Host, slot: Slot) -> None:
    lease = claimed(host, slot)
    sh(host, slot, "echo elsewhere > /tmp/x; cat hello.txt")
    saved = ended(host, lease)
    assert (saved.state, saved.files) == ("clean", ())
    assert saved.detail == "nothing was changed"


def test_work_that_came_back_to_the_commit_is_clean_after_a_comparison(
    host: Host, slot: Slot
) -> None:
    lease = claimed(host, slot)
    sh(host, slot, "echo x > hello.txt; git checkout -q hello.txt; mkdir built/more")
    saved = ended(host, lease)
    assert saved.state == "clean"
    assert saved.detail == ""


def test_commits_and_uncommitted_work_are_kept_and_can_be_had_back(
    host: Host, made: Made, slot: Slot, tmp_path: Path
) -> None:
    repo, _, snapshot = made
    lease = claimed(host, slot, Personal(git_name="A", git_email="a@example.org"))
    script = """
    set -e
    echo one > one.txt; git add one.txt; git commit -qm one
    git checkout -qb side; echo two > two.txt; git add two.txt; git commit -qm two
    git checkout -q main
    echo staged > staged.txt; git add staged.txt
    echo changed >> hello.txt; rm gone.txt; printf '\\000\\001' > new.bin
    mkdir -p built/cache; echo c > built/cache/c
    touch .git/index.lock
    """
    assert sh(host, slot, script).code == 0
    saved = ended(host, lease)
    assert saved.state == "saved", saved
    assert (saved.commits, saved.changed) == (2, 5)
    place = Path(saved.path)
    assert sorted(p.name for p in place.iterdir()) == [
        "changed.txt", "commits.txt", "ignored.txt", "saved.json", "work.bundle", "work.patch"
    ]  # fmt: skip
    told = (place / "commits.txt").read_text().splitlines()
    assert sorted(line.partition(" ")[2] for line in told) == ["A: one", "A: two"]
    assert "A\tstaged.txt" in (place / "changed.txt").read_text().splitlines()
    assert "built/" in (place / "ignored.txt").read_text()
    clone = tmp_path / "clone"

    def run(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=clone, check=True, capture_output=True, text=True
        )
        return done.stdout

    clone.mkdir()
    run("clone", "-q", str(repo.path), ".")
    run("fetch", "-q", str(place / "work.bundle"), "refs/greenroom/saved", "refs/heads/side")
    assert run("show", "FETCH_HEAD:one.txt") == "one\n"
    assert run("show", "FETCH_HEAD:staged.txt") == "staged\n"
    run("checkout", "-q", snapshot.source.commit)
    run("apply", "--index", str(place / "work.patch"))
    assert (clone / "hello.txt").read_text() == "hello\nchanged\n"
    assert (clone / "new.bin").read_bytes() == b"\x00\x01"
    assert not (clone / "gone.txt").exists()
    assert not host.ctx.engine.containers({"greenroom.kind": "saver"} | own(host))
    assert not [i for i in host.ctx.engine.images(own(host)) if "saver" in str(i["Labels"])]
    assert save_work(host.ctx, end_of(lease)) == saved  # again changes nothing


def own(host: Host) -> dict[str, str]:
    return {"greenroom.install": host.ctx.settings.install_id}


def test_work_is_dropped_when_it_was_said_so(host: Host, slot: Slot) -> None:
    lease = claimed(host, slot)
    sh(host, slot, "echo x > new.txt")
    assert ended(host, lease, save=False).state == "discarded"
    assert not host.paths.saved_claim("leased", lease.claim_id).exists()


def test_a_hostile_work_tree_runs_nothing_outside_and_writes_nothing_elsewhere(
    host: Host, slot: Slot
) -> None:
    lease = claimed(host, slot, Personal(secrets={"KEY": "s3cret"}))
    script = """
    for hook in pre-commit post-index-change reference-transaction pre-auto-gc; do
        printf '#!/bin/sh\\ncat /run/greenroom/secrets/KEY > leak-%s\\n' $hook > .git/hooks/$hook
        chmod +x .git/hooks/$hook
    done 2>/dev/null || { mkdir -p .git/hooks; }
    git config core.fsmonitor 'touch leak-fsmonitor; false'
    git config filter.evil.clean 'cat /run/greenroom/secrets/KEY; id'
    git config diff.external 'touch leak-diff'
    git config alias.add '!touch leak-alias'
    echo '*.txt filter=evil' > .gitattributes
    echo changed > hello.txt
    ln -s /etc/passwd link
    """
    sh(host, slot, script)
    saved = ended(host, lease)
    assert saved.state == "saved", saved
    kept = b"".join((Path(saved.path) / name).read_bytes() for name in saved.files)
    assert b"uid=1000" in kept  # the planted filter did run, inside the saver
    assert b"s3cret" not in kept
    assert b"leak-" not in kept
    assert b"root:x:0" not in kept


def test_work_that_git_cannot_read_keeps_the_container(host: Host, slot: Slot) -> None:
    lease = claimed(host, slot)
    sh(host, slot, "rm -rf .git/objects; echo x > new.txt")
    saved = ended(host, lease)
    assert saved.state == "unsaved"
    assert "git could not save" in saved.detail
    record = read_slot(host.paths, slot.container)
    assert record is not None
    assert record.unsaved
    assert host.ctx.engine.inspect(slot.docker_id) is not None


def test_a_repository_inside_the_work_tree_is_kept_too(host: Host, slot: Slot) -> None:
    lease = claimed(host, slot, Personal(git_name="A", git_email="a@example.org"))
    script = "git init -q inner && cd inner && echo x > x && git add x && git commit -qm x"
    assert sh(host, slot, script).code == 0
    saved = ended(host, lease)
    assert "nested.tar" in saved.files
