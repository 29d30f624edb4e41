from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import napari_emseg
from napari_emseg.core import atomic
from napari_emseg.core.atomic import (
    atomic_folder,
    atomic_path,
    atomic_write,
    clear_leftovers,
    exchange,
    leftovers,
    private_part,
    publish,
    release,
    write_whole,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from napari_emseg.core.atomic import atomic_folder, atomic_write
place = Path(sys.argv[1])
with atomic_write(place / "a.txt") as file, atomic_folder(place / "b") as part:
    file.write(b"half")
    file.flush()
    (part / "c").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as part:
        (part / "b").write_text("new")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "b").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    def fill() -> None:
        with atomic_folder(tmp_path / "b") as part:
            (part / "c").write_text("new")
            raise KeyboardInterrupt

    for interrupted in (write, fill):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_was_made_meanwhile_stays(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_folder(tmp_path / "a") as part:
            (part / "b").write_text("ours")
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "thesis.txt").write_text("theirs")

    with pytest.raises(FileExistsError):
        fill()
    assert names(tmp_path / "a") == ["thesis.txt"]
    assert names(tmp_path) == ["a"]


def test_files_of_the_user_are_left_alone(tmp_path: Path) -> None:
    theirs = [
        "a.txt.part",
        "a.txt.old",
        "a.txt.tmp",
        "a.txt.1.part",
        "a.txt.x-y-z.part",
    ]
    for name in theirs:
        (tmp_path / name).write_text("theirs")
    clear_leftovers(tmp_path / "a.txt")
    write_whole(tmp_path / "a.txt", "ours")
    assert names(tmp_path) == sorted(["a.txt", *theirs])
    assert all((tmp_path / name).read_text() == "theirs" for name in theirs)


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")
def test_the_umask_counts(tmp_path: Path, umask: None) -> None:
    write_whole(tmp_path / "a", "new")
    with atomic_path(tmp_path / "b") as part:
        part.unlink()  # as libraries do that write beside and rename
        part.touch(0o600)
    assert mode(tmp_path / "a") == mode(tmp_path / "b") == 0o640


@pytest.mark.skipif(os.name == "nt", reason="permissions are POSIX's")
def test_a_file_that_is_replaced_lends_its_permissions(
    tmp_path: Path, umask: None
) -> None:
    path = tmp_path / "a"
    path.touch()
    path.chmod(0o664)
    write_whole(path, "new")
    assert mode(path) == 0o664


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "a").symlink_to(tmp_path / "theirs")
    write_whole(tmp_path / "a", "ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not (tmp_path / "a").is_symlink()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(words, check=False).returncode == -9
    assert {Path(name).suffix for name in names(tmp_path)} == {".part"}
    assert len(leftovers(tmp_path / "a.txt")) == len(leftovers(tmp_path / "b")) == 1
    clear_leftovers(tmp_path / "a.txt")
    clear_leftovers(tmp_path / "b")
    assert names(tmp_path) == []


def test_what_is_being_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    part = private_part(path)
    part.touch()
    clear_leftovers(path)
    assert part.exists()
    monkeypatch.setattr(atomic, "_computer", lambda: "elsewhere")
    release(part)
    clear_leftovers(path)  # who knows what goes on on another computer
    assert part.exists()
    monkeypatch.undo()
    clear_leftovers(path)
    assert names(tmp_path) == []


def test_what_another_living_process_writes_stays(tmp_path: Path) -> None:
    mine = private_part(tmp_path / "a")
    release(mine)
    parent = mine.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    (tmp_path / parent).touch()
    clear_leftovers(tmp_path / "a")
    assert names(tmp_path) == [parent]


def test_what_was_replaced_comes_back_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "a", tmp_path / "b"
    for folder in (old, new):
        folder.mkdir()
        (folder / "which").write_text(folder.name)
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self == new:
            msg = "killed"
            raise OSError(msg)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(OSError, match="killed"):
        exchange(new, old)
    monkeypatch.undo()
    clear_leftovers(old)
    assert (old / "which").read_text() == "a"
    exchange(new, old)
    assert (old / "which").read_text() == "b"
    assert names(tmp_path) == ["a"]


def test_names_as_long_as_file_systems_allow(tmp_path: Path) -> None:
    names_ = ["a" * 251 + ".tif", "ä" * 125 + ".tif", "a" * 250 + "b.tif"]
    for name in names_:
        write_whole(tmp_path / name, name)
    assert all((tmp_path / name).read_text() == name for name in names_)
    assert (
        private_part(Path(names_[0])).name[:170]
        != private_part(Path(names_[2])).name[:170]
    )


def test_a_disk_that_is_full_when_flushed_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "new")
    part = private_part(path)
    part.write_text("new")
    with pytest.raises(OSError, match="No space"):
        publish(part, path)
    assert path.read_text() == "old"


BY_HAND = {"rename", "renames", "link", "fsync", "mkstemp"}
"""Ways to write and rename, of `os`, `shutil` and `Path`."""

MAY = {"core/atomic.py", "project/journal.py", "batch/completion_log.py"}
"""The one place; several files at once; lines that are appended."""


def by_hand(path: Path) -> list[str]:
    """Return calls `os.replace(…)`, `part.rename(…)`, `path.write_text(…)`…"""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        one = len(node.args) == 1 and not node.keywords  # of a text there are two
        if name in BY_HAND or (name == "replace" and (owner == "os" or one)):
            found.append(f"{path.name}:{node.lineno} {owner}.{name}")
    return found


def test_nobody_else_renames_files() -> None:
    root = Path(napari_emseg.__file__).parent
    found = [
        each
        for path in root.rglob("*.py")
        if path.relative_to(root).as_posix() not in MAY
        for each in by_hand(path)
    ]
    assert found == []
