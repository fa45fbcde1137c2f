"""Mirrors over real git: what is fetched, what resolves, and failures that say what is wrong."""

import os
import select
import subprocess
from pathlib import Path

import pytest

from activities.mirrors import Mirror
from greenroom.core.errors import PreparationError
from greenroom.core.names import mirror_key
from greenroom.core.paths import StatePaths

GIT = ("git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgSign=false")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run([*GIT, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(folder: Path, name: str, text: str = "x\n") -> str:
    (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", name)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return StatePaths(tmp_path / "state")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "trunk")
    commit(folder, "a.txt")
    return folder


def mirror_of(paths: StatePaths, url: str) -> Mirror:
    return Mirror(paths, url, lambda: None)


def fetched(paths: StatePaths, url: str) -> Mirror:
    mirror = mirror_of(paths, url)
    with mirror.locked():
        mirror.fetch()
    return mirror


def test_head_branches_tags_and_commits_resolve(paths: StatePaths, source: Path) -> None:
    first = git(source, "rev-parse", "HEAD")
    git(source, "tag", "-a", "v1", "-m", "v1")
    git(source, "checkout", "-q", "-b", "topic/x")
    second = commit(source, "b.txt")
    git(source, "checkout", "-q", "trunk")
    mirror = fetched(paths, str(source))
    found = {
        ref: (mirror.resolve(ref).commit, mirror.resolve(ref).ref)
        for ref in ("HEAD", "trunk", "v1", "topic/x", "refs/heads/trunk", second)
    }
    assert found == {
        "HEAD": (first, "refs/heads/trunk"),
        "trunk": (first, "refs/heads/trunk"),
        "v1": (first, "refs/tags/v1"),
        "topic/x": (second, "refs/heads/topic/x"),
        "refs/heads/trunk": (first, "refs/heads/trunk"),
        second: (second, "HEAD"),
    }


def test_a_detached_head_is_a_commit_without_a_branch(paths: StatePaths, source: Path) -> None:
    git(source, "checkout", "-q", "--detach")
    lonely = commit(source, "c.txt")
    resolved = fetched(paths, str(source)).resolve("HEAD")
    assert (resolved.commit, resolved.ref) == (lonely, "HEAD")


def test_a_later_fetch_sees_new_commits_moved_and_removed_branches(
    paths: StatePaths, source: Path
) -> None:
    git(source, "branch", "old")
    mirror = fetched(paths, str(source))
    git(source, "branch", "-D", "old")
    git(source, "checkout", "-q", "--orphan", "fresh")
    git(source, "branch", "-M", "trunk")
    moved = commit(source, "d.txt")
    mirror = fetched(paths, str(source))
    assert mirror.resolve("trunk").commit == moved
    with pytest.raises(PreparationError, match="no branch or tag 'old'; it has: trunk"):
        mirror.resolve("old")


def test_a_pinned_commit_survives_its_branch(paths: StatePaths, source: Path) -> None:
    mirror = fetched(paths, str(source))
    kept = mirror.resolve("HEAD").commit
    mirror.pin("api", kept)
    git(source, "commit", "-q", "--amend", "-m", "rewritten")
    fetched(paths, str(source))
    git(mirror.path, "-c", f"safe.directory={mirror.path}", "gc", "-q", "--prune=now")
    assert git(mirror.path, "rev-parse", "refs/greenroom/api") == kept
    assert mirror.files(kept).keys() == {"a.txt"}


def test_files_are_paths_and_blob_ids_with_odd_names_and_no_links(
    paths: StatePaths, source: Path
) -> None:
    (source / "link").symlink_to("a.txt")
    (source / "sub").mkdir()
    (source / "sub" / "two words\tand ü").write_text("x\n")
    made = commit(source, "e.txt")
    blob = git(source, "rev-parse", "HEAD:e.txt")
    files = fetched(paths, str(source)).files(made)
    assert files == {"a.txt": blob, "e.txt": blob, "sub/two words\tand ü": blob}


@pytest.mark.parametrize("form", ["{}", "{}/.git", "file://{}"])
def test_local_repositories_in_every_form(paths: StatePaths, source: Path, form: str) -> None:
    assert fetched(paths, form.format(source)).resolve("trunk").commit


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make somebody else's repository")
def test_a_repository_that_belongs_to_another_user_can_be_mirrored(
    paths: StatePaths, source: Path
) -> None:
    subprocess.run(["chown", "-R", "12345:12345", str(source)], check=True)
    assert fetched(paths, str(source)).resolve("trunk").commit


def test_what_is_no_repository_says_so_and_shows_no_password(
    paths: StatePaths, tmp_path: Path
) -> None:
    with pytest.raises(PreparationError, match="check the pool's `repo:`") as failed:
        fetched(paths, str(tmp_path / "nothing"))
    assert failed.value.details["step"] == "source"
    with pytest.raises(PreparationError) as secret:
        fetched(paths, "http://user:pa55word@127.0.0.1:1/x.git")
    assert "pa55word" not in f"{secret.value} {secret.value.details}"


def test_an_empty_repository_says_so(paths: StatePaths, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    with pytest.raises(PreparationError, match="the repository is empty"):
        fetched(paths, str(empty))


@pytest.mark.parametrize("url", ["ext::sh -c 'touch pwned'", "--upload-pack=touch pwned"])
def test_urls_that_would_run_something_run_nothing(
    paths: StatePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PreparationError):
        fetched(paths, url)
    assert not list(tmp_path.rglob("pwned"))


def test_the_environments_own_git_variables_play_no_part(
    paths: StatePaths, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert fetched(paths, str(source)).resolve("trunk").commit


def test_a_tick_that_raises_ends_git(paths: StatePaths, source: Path, tmp_path: Path) -> None:
    """A hanging transport is ended by whoever cancels, and leaves no process."""
    hanging = tmp_path / "ssh"
    hanging.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 1000\n")
    hanging.chmod(0o755)

    def stop() -> None:
        if (tmp_path / "pid").exists():
            raise InterruptedError("enough")

    mirror = Mirror(paths, "ssh://git.example.org/x.git", stop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_SSH_COMMAND", str(hanging))
        with pytest.raises(InterruptedError), mirror.locked():
            mirror.fetch()
    try:
        process = os.pidfd_open(int((tmp_path / "pid").read_text()))
    except ProcessLookupError:
        return
    ended, _, _ = select.select([process], [], [], 60)  # it was killed; the kernel takes its time
    os.close(process)
    assert ended


@pytest.mark.skipif(os.geteuid() != 0, reason="groups are set by root")
def test_the_gates_group_can_read_and_nobody_else(paths: StatePaths, source: Path) -> None:
    mirror = fetched(paths, str(source))
    assert mirror.key == mirror_key(str(source))
    for path in [mirror.path, *mirror.path.rglob("*")]:
        mode = path.stat().st_mode
        assert not mode & 0o007, path
        assert mode & 0o040, path
