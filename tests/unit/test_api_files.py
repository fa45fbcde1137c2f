"""The scripts that move files in and out of a container, run by this machine's own shell."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from greenroom.api import files
from greenroom.core.errors import EngineError, NotFoundError, TooLargeError, UsageError
from greenroom.core.slotfile import SlotRecord

LIMIT_KIB = 64


Ended = subprocess.CompletedProcess[bytes]


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def run(script: str, folder: Path, path: str, stdin: bytes = b"") -> Ended:
    slot = SlotRecord(container="c", pool="p", docker_id="d")
    command = files._spec(slot, script, path).command
    return subprocess.run(
        [*command[:-1], str(LIMIT_KIB)], cwd=folder, input=stdin, capture_output=True, check=False
    )


def packed(**content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def test_a_folder_comes_as_an_archive_under_its_name(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("x")
    got = run(files._GET_TAR, tmp_path, "a/b")
    assert names(got.stdout) == ["b", "b/c"]


@pytest.mark.parametrize("name", ["-rf", "-", "a b", "$(id)", "a\nb", "*", "ä", "--", "'"])
def test_a_name_is_a_name(tmp_path: Path, name: str) -> None:
    assert run(files._PUT_FILE, tmp_path, name, b"data").returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert run(files._GET_FILE, tmp_path, name).stdout == b"data"
    got = run(files._GET_TAR, tmp_path, name)
    assert names(got.stdout) == [name]


def test_an_archive_is_unpacked_into_a_folder_that_is_made(tmp_path: Path) -> None:
    done = run(files._PUT_TAR, tmp_path, "new/dir", packed(one=b"1", two=b"2"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "dir" / "two").read_bytes() == b"2"
    assert run(files._PUT_TAR, tmp_path, "x", b"no archive at all").returncode != 0


def test_a_file_takes_the_place_of_a_link_and_not_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to("target")
    assert run(files._PUT_FILE, tmp_path, "link", b"new").returncode == 0
    assert (tmp_path / "target").read_text() == "kept"
    assert (tmp_path / "link").read_text() == "new"


@pytest.mark.parametrize(
    ("script", "path", "error"),
    [
        (files._GET_TAR, "none", NotFoundError),
        (files._GET_FILE, "none", NotFoundError),
        (files._GET_TAR, "large", TooLargeError),
        (files._GET_FILE, "large", TooLargeError),
        (files._GET_FILE, "folder", UsageError),
        (files._PUT_FILE, "folder", UsageError),
        (files._PUT_FILE, "large/below", UsageError),
        (files._PUT_TAR, "large/below", UsageError),
    ],
)
def test_what_cannot_be_is_a_clear_error(
    tmp_path: Path, script: str, path: str, error: type[Exception]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"x" * (LIMIT_KIB + 64) * 1024)
    done = run(script, tmp_path, path, packed(a=b"1"))
    where = files.Where("c1", path, files.Form.TAR, None)
    told = files._failure(done.returncode, done.stderr, where)
    assert type(told) is error
    assert path in told.message


def test_an_image_without_tar_is_named() -> None:
    where = files.Where("c1", "x", files.Form.TAR, None)
    assert type(files._failure(127, b"sh: tar: not found", where)) is EngineError


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 4096, "\ud800", "ä" * 2048])
def test_paths_that_no_file_has_are_refused(path: str) -> None:
    with pytest.raises(UsageError):
        files.check_path(path)
