"""Archives from a container are hostile: nothing is written outside of the named folder."""

from __future__ import annotations

import contextlib
import io
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenroom.cli.unpacking import Unpacker
from greenroom.core.errors import TooLargeError, UsageError

Entry = tuple[str, bytes, str, bytes]
"""Name, type, link target, content."""


def archive(*entries: Entry) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, kind, target, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, target, len(content)
            entry.mode = 0o4755
            tar.addfile(entry, io.BytesIO(content))
    made.seek(0)
    return made


def file(name: str, content: bytes = b"x") -> Entry:
    return (name, tarfile.REGTYPE, "", content)


def link(name: str, target: str) -> Entry:
    return (name, tarfile.SYMTYPE, target, b"")


def unpacked(folder: Path, *entries: Entry, limit: int = 1 << 20) -> Unpacker:
    folder.mkdir(exist_ok=True)
    one = Unpacker(folder, "new", limit)
    one.unpack(archive(*entries))
    return one


def test_files_folders_and_inner_links_arrive_under_the_new_name(tmp_path: Path) -> None:
    one = unpacked(tmp_path / "to", file("top/a/b", b"hello"), link("top/l", "a/b"))
    assert (tmp_path / "to" / "new" / "l").read_text() == "hello"
    assert (tmp_path / "to" / "new" / "a" / "b").stat().st_mode & 0o7777 == 0o755
    assert (one.files, one.bytes, one.left_out) == (1, 5, [])


def test_a_single_file_replaces_what_is_there(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "new").symlink_to(outside)
    unpacked(tmp_path / "to", file("main.py", b"y"))
    assert outside.read_text() == "kept"
    assert (tmp_path / "to" / "new").read_text() == "y"
    assert not (tmp_path / "to" / "new").is_symlink()


@pytest.mark.parametrize(
    "entries",
    [
        [file("top/../../evil")],
        [file("/evil")],
        [link("top/up", "../.."), file("top/up/evil")],
        [link("top/abs", "/"), file("top/abs/evil")],
        [link("top/here", "."), link("top/x", "here/../.."), file("top/x/evil")],
        [("top/dev", tarfile.CHRTYPE, "", b"")],
        [("top/hard", tarfile.LNKTYPE, "/etc/passwd", b"")],
        [link("top/ring", "ring")],
    ],
)
def test_nothing_gets_out(tmp_path: Path, entries: list[Entry]) -> None:
    folder = tmp_path / "a" / "to"
    folder.parent.mkdir()
    try:
        one = unpacked(folder, *entries)
    except UsageError:
        pass
    else:
        assert one.left_out or not any(e[1] != tarfile.REGTYPE for e in entries)
    outside = [p for p in tmp_path.rglob("*") if folder not in p.parents and p != folder]
    assert outside == [folder.parent]
    for left in folder.rglob("*"):
        assert left.resolve().is_relative_to(folder.resolve())


def test_links_of_an_earlier_copy_are_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "to"
    (folder / "new").mkdir(parents=True)
    (folder / "new" / "sub").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="not a folder"):
        unpacked(folder, file("top/sub/evil"))
    assert not (tmp_path / "evil").exists()


def test_too_much_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooLargeError):
        unpacked(tmp_path / "to", file("top/a", b"x" * 600), file("top/b", b"x" * 600), limit=1000)


NAMES = st.text("./ab", min_size=1, max_size=8)


@given(st.lists(st.tuples(NAMES, st.booleans(), NAMES)))
def test_any_names_and_links_stay_inside(names: list[tuple[str, bool, str]]) -> None:
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where) / "a" / "to"
        folder.mkdir(parents=True)
        entries = [link(name, target) if is_link else file(name) for name, is_link, target in names]
        one = Unpacker(folder, "new", 1 << 20)
        with contextlib.suppress(UsageError, OSError):
            one.unpack(archive(*entries))
        assert {p.name for p in Path(where).iterdir()} == {"a"}
        assert {p.name for p in folder.parent.iterdir()} == {"to"}
        assert {p.name for p in folder.iterdir()} <= {"new"}
