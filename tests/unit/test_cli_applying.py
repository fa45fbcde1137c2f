"""Saved work brought into a clone: what fits, what is refused, and that nothing of it runs."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from greenroom.cli.applying import Work, apply_work, unpack
from greenroom.core.errors import UsageError

SAVED = "refs/greenroom/saved"


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Tess", "-c", "user.email=tess@example.org")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


class Lab:
    """A repository, the work that a claim left of it, and a clone to bring it to."""

    def __init__(self, root: Path) -> None:
        self.origin, self.clone, self.saved = root / "origin", root / "clone", root / "saved"
        self.origin.mkdir()
        git(self.origin, "init", "-q", "-b", "main")
        (self.origin / "a.txt").write_text("one\n")
        git(self.origin, "add", "-A")
        git(self.origin, "commit", "-q", "-m", "base")
        self.base = git(self.origin, "rev-parse", "HEAD")
        git(root, "clone", "-q", str(self.origin), str(self.clone))
        (self.origin / "a.txt").write_text("two\n")
        git(self.origin, "commit", "-q", "-a", "-m", "committed in the claim")
        (self.origin / "new.bin").write_bytes(b"\x00\x01\xff")
        git(self.origin, "add", "-A")
        git(self.origin, "commit", "-q", "-m", "uncommitted")
        git(self.origin, "update-ref", SAVED, "HEAD")
        git(self.origin, "branch", "side", "HEAD~1")
        self.saved.mkdir()
        bundle = ("bundle", "create", "-q", str(self.saved / "work.bundle"))
        git(self.origin, *bundle, SAVED, "--branches", "--not", self.base)
        patch = subprocess.run(
            ["git", "diff", "--binary", "--full-index", self.base, SAVED],
            cwd=self.origin, check=True, capture_output=True,
        )  # fmt: skip
        (self.saved / "work.patch").write_bytes(patch.stdout)

    @property
    def work(self) -> Work:
        return Work("agent.7", self.base, self.saved)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_commits_become_refs_and_changes_those_of_the_work_tree(lab: Lab) -> None:
    (lab.clone / "inner").mkdir()
    done = apply_work(lab.work, lab.clone / "inner")
    below = "refs/greenroom/agent_7"
    assert done.refs == (f"{below}/heads/main", f"{below}/heads/side", f"{below}/saved")
    assert done.changed
    assert (lab.clone / "a.txt").read_text() == "two\n"
    assert (lab.clone / "new.bin").read_bytes() == b"\x00\x01\xff"
    assert git(lab.clone, "rev-parse", "HEAD") == lab.base
    assert git(lab.clone, "diff", "--cached", f"{below}/saved") == ""


def test_a_work_tree_with_changes_is_refused_and_stays_as_it_is(lab: Lab) -> None:
    (lab.clone / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="commit or stash"):
        apply_work(lab.work, lab.clone)
    assert (lab.clone / "a.txt").read_text() == "one\n"
    assert git(lab.clone, "for-each-ref", "refs/greenroom") == ""


def test_a_clone_without_the_base_commit_is_told_to_fetch(lab: Lab, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    with pytest.raises(UsageError, match=f"does not have commit {lab.base[:12]}.*git fetch"):
        apply_work(lab.work, other)
    with pytest.raises(UsageError, match="not in the work tree of a git repository"):
        apply_work(lab.work, tmp_path)


def test_changes_that_do_not_fit_leave_the_work_tree_and_bring_the_commits(lab: Lab) -> None:
    (lab.clone / "a.txt").write_text("elsewhere\n")
    git(lab.clone, "commit", "-q", "-a", "-m", "moved on")
    with pytest.raises(UsageError, match="git merge refs/greenroom/agent_7/saved"):
        apply_work(lab.work, lab.clone)
    assert git(lab.clone, "status", "--porcelain") == ""
    assert git(lab.clone, "rev-parse", "refs/greenroom/agent_7/heads/side")


def test_no_hook_runs(lab: Lab) -> None:
    for name in ("reference-transaction", "post-checkout", "post-merge", "pre-auto-gc"):
        hook = lab.clone / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch '{lab.clone.parent}/ran'\n")
        hook.chmod(0o755)
    assert apply_work(lab.work, lab.clone).changed
    assert not (lab.clone.parent / "ran").exists()


@pytest.mark.parametrize("path", ["../outside.txt", ".git/hooks/pre-commit", "link/x.txt"])
def test_a_patch_leads_nowhere_outside_the_work_tree(lab: Lab, path: str) -> None:
    (lab.saved / "work.bundle").unlink()
    link = (
        "diff --git a/link b/link\nnew file mode 120000\n--- /dev/null\n+++ b/link\n@@ -0,0 +1 @@\n"
    )
    evil = (
        f"{link}+/tmp\n\\ No newline at end of file\n"
        f"diff --git a/{path} b/{path}\nnew file mode 100755\n--- /dev/null\n+++ b/{path}\n"
        "@@ -0,0 +1 @@\n+evil\n"
    )
    (lab.saved / "work.patch").write_text(evil)
    with pytest.raises(UsageError, match="do not fit"):
        apply_work(lab.work, lab.clone)
    assert git(lab.clone, "status", "--porcelain") == ""
    assert not (lab.clone.parent / "outside.txt").exists()


def test_only_bundle_and_patch_are_taken_out_of_an_archive(lab: Lab, tmp_path: Path) -> None:
    archive, target = tmp_path / "work.tar.gz", tmp_path / "target"
    target.mkdir()
    with tarfile.open(archive, "w:gz") as made:
        made.add(lab.saved / "work.patch", "work.patch")
        made.add(lab.saved / "work.patch", "../evil")
        link = tarfile.TarInfo("work.bundle")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
    unpack(archive, target)
    assert [path.name for path in target.iterdir()] == ["work.patch"]
    assert not (tmp_path / "evil").exists()
