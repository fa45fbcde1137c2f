"""Personal files: refused names, and descriptors that are closed once."""

import os
from pathlib import Path

import pytest

from activities import personal as subject
from activities.personal import Personal, check_personal, room_needed
from greenroom.core.errors import UsageError
from greenroom.core.slotfile import SlotRecord


def record() -> SlotRecord:
    return SlotRecord(container="C1", pool="api", uid=os.getuid(), gid=os.getgid())


@pytest.fixture
def root(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)


def test_a_file_that_would_be_a_folder_too_is_refused() -> None:
    check_personal(Personal(files={"a/b": b"", "a/c": b"", "ab": b""}))
    with pytest.raises(UsageError, match="'a' cannot be"):
        check_personal(Personal(files={"a": b"", "a/b/c": b""}))


def test_the_room_that_files_take_is_counted_in_pages() -> None:
    assert room_needed(Personal()) == 0
    assert room_needed(Personal(secrets={"A": "x"}, files={"f": b"y" * 4097})) == 4 * 4096


def test_files_get_their_folders(root: int, tmp_path: Path) -> None:
    subject._put(root, ("files", "a", "b"), b"content", record())
    assert (tmp_path / "files" / "a" / "b").read_bytes() == b"content"
    assert (tmp_path / "files" / "a").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("planted", ["file", "link"])
def test_what_is_in_the_way_is_not_followed_and_every_descriptor_is_closed_once(
    root: int, tmp_path: Path, planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if planted == "file":
        (tmp_path / "files").write_text("")
    else:
        (tmp_path / "files").symlink_to("/tmp")
    opened, closed = list[int](), list[int]()
    dup, close = os.dup, os.close
    monkeypatch.setattr(os, "dup", lambda fd: opened.append(dup(fd)) or opened[-1])  # type: ignore[func-returns-value]
    monkeypatch.setattr(os, "close", lambda fd: (closed.append(fd), close(fd)))
    with pytest.raises(NotADirectoryError):
        subject._put(root, ("files", "a", "b"), b"content", record())
    assert closed == opened
