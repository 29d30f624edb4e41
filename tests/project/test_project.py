"""A project gives back what was handed to it, and says why where it can't."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Event
from time import monotonic, sleep

import numpy as np
import pytest
import zarr
from drawing import SHAPE, Person, hand_over, saved_in, state_of
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_emseg.core.stack import Stack
from napari_emseg.io import save_stack
from napari_emseg.io.errors import UnreadableError
from napari_emseg.project import Project, Saved, SaveFailed, StackNotFoundError
from napari_emseg.project import journal as journals
from napari_emseg.project.store import ProjectStore
from napari_emseg.proofreading import Change, Edit
from napari_emseg.proofreading.edits import IdChange


@pytest.fixture
def stack(tmp_path) -> Stack:
    values = np.random.default_rng(0).integers(0, 255, (3, 40, 50), np.uint8)
    path = save_stack(tmp_path / "data" / "em.tif", Stack(values))
    from napari_emseg.io import open_stack

    return open_stack(path, voxel_size_nm=(50, 4, 4))


@pytest.fixture(autouse=True)
def data_folder(tmp_path) -> None:
    (tmp_path / "data").mkdir()


@pytest.fixture
def folder(tmp_path, stack) -> Path:
    Project.create(tmp_path / "a.emseg", stack).close()
    return tmp_path / "a.emseg"


def painted(value: int, z: int = 0, name: str = "corrections") -> Edit:
    old, new = np.zeros((5, 6), np.uint32), np.full((5, 6), value, np.uint32)
    dtype = np.uint8 if name == "corrections" else np.uint32
    area = slice(10, 15), slice(20, 26)
    change = Change.between(name, z, area, old.astype(dtype), new.astype(dtype))
    return Edit("paint", "painted", (change,), last_id=value)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 25), again=st.booleans())
def test_what_is_handed_over_comes_back(tmp_path_factory, seed, n, again) -> None:
    folder = tmp_path_factory.mktemp("p") / "a.emseg"
    person = Person(seed)
    with Project.create(folder, Stack(np.zeros(SHAPE, np.uint8))) as project:
        for step in islice(person.steps(), n):
            hand_over(project, step)
            if again and person.rng.random() < 0.3:
                project.flush()
    expected = state_of(person.linked)
    with Project(folder, read_only=True) as project:
        np.testing.assert_equal(saved_in(project), expected)
        assert project.locked == person.linked.locked
        assert project.regions == person.linked.regions
        assert project.last_id == person.linked.last_id
        lines = project.edits()
    assert len(lines) == n
    assert {line.author for line in lines if line.what == "paint"} <= {"Ada"}
    assert np.array_equal(
        zarr.open_array(folder / "corrections.zarr", mode="r")[:],
        expected["corrections"],
    )


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_area_of_any_section(tmp_path_factory, data) -> None:
    shape = (2, data.draw(st.integers(1, 1100)), data.draw(st.integers(1, 600)))
    folder = tmp_path_factory.mktemp("p") / "a.emseg"
    expected = np.zeros(shape, np.uint32)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    with Project.create(folder, Stack(np.zeros(shape, np.uint8))) as project:
        for _ in range(data.draw(st.integers(1, 4))):
            z, y, x = (int(rng.integers(n)) for n in shape)
            area = slice(y, int(rng.integers(y, shape[1])) + 1), slice(x, shape[2])
            values = rng.integers(0, 2**32, expected[z][area].shape, np.uint32)
            expected[z][area] = values
            project.put("cells", z, area, values)
    array = zarr.open_array(folder / "cells.zarr", mode="r")
    np.testing.assert_array_equal(array[:], expected)
    with Project(folder) as project:
        np.testing.assert_array_equal(saved_in(project)["cells"], expected)


def test_saved_by_itself_and_nobody_waits(folder, monkeypatch) -> None:
    records: list[object] = []
    gate, save = Event(), ProjectStore.save

    def held(disk: ProjectStore) -> None:
        assert gate.wait(60)
        save(disk)

    monkeypatch.setattr(ProjectStore, "save", held)
    with Project(folder, on_record=records.append) as project:
        project.do(painted(1))
        assert project.waiting == 1
        gate.set()
        until = monotonic() + 60
        while project.waiting and monotonic() < until:
            sleep(0.01)
        with Project(folder, read_only=True) as other:
            assert other.section("corrections", 0)[12, 22] == 1
    assert [r.changes for r in records if isinstance(r, Saved)] == [1]


def test_only_changed_chunks_are_written(tmp_path) -> None:
    folder = tmp_path / "a.emseg"
    with Project.create(folder, Stack(np.zeros(SHAPE, np.uint8))) as project:
        for z in range(SHAPE[0]):
            whole = slice(0, SHAPE[1]), slice(0, SHAPE[2])
            project.put("cells", z, whole, np.full(SHAPE[1:], 7, np.uint32))
        project.flush()
        before = {p: p.stat().st_ino for p in folder.glob("*.zarr/c/*/*/*")}
        project.do(painted(3, z=2, name="cells"))
        project.flush()
        after = {p: p.stat().st_ino for p in folder.glob("*.zarr/c/*/*/*")}
    changed = {p for p in after if after[p] != before.get(p)}
    assert changed == {folder / "cells.zarr" / "c" / "2" / "0" / "0"}


def test_review_and_what_was_chosen(folder) -> None:
    with Project(folder) as project:
        project.mark([0, 1], "reviewed")
        project.mark([2], "excluded")
        project.mark([1], "to do")
        project.tell(invert="yes", settings={"cells": {"join": 0.5}})
        project.lock_cells([4, 2])
    with Project(folder) as project:
        assert project.review.named("reviewed") == {0}
        assert project.review.named("excluded") == {2}
        assert project.locked == {2, 4}
        assert project.info.invert == "yes"
        assert project.info.settings == {"cells": {"join": 0.5}}
    assert json.loads((folder / "review.json").read_text())["sections"] == {
        "0": "reviewed",
        "2": "excluded",
    }


def test_the_second_window_only_reads(folder) -> None:
    with Project(folder, author="Ada") as project:
        second = Project(folder)
        assert second.read_only
        assert "Ada" in second.why_read_only
        with pytest.raises(ValueError, match="read-only"):
            second.do(painted(1))
        project.do(painted(1))
    second.close()
    with Project(folder) as project:
        assert not project.read_only
        assert project.edits()[0].author == "Ada"


def test_a_full_disk_loses_nothing(folder, monkeypatch) -> None:
    records: list[object] = []

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Project(folder, on_record=records.append) as project:
        with monkeypatch.context() as patch:
            patch.setattr(journals, "write", full)
            project.do(painted(1))
            with pytest.raises(OSError, match="No space left"):
                project.flush()
            project.do(painted(2, z=1))
        project.flush()
        assert project.error is None
    failed = next(r for r in records if isinstance(r, SaveFailed))
    assert failed.waiting == 1
    with Project(folder) as project:
        assert project.section("corrections", 0).max() == 1
        assert project.section("corrections", 1).max() == 2
        assert [line.what for line in project.edits()] == ["paint", "paint"]


def test_a_folder_that_is_gone_is_said_and_may_come_back(folder) -> None:
    with Project(folder) as project:
        away = folder.rename(folder.with_name("away"))
        project.do(painted(1))
        with pytest.raises(FileNotFoundError, match="no longer there"):
            project.flush()
        assert not folder.exists()
        away.rename(folder)
        project.flush()
    with Project(folder) as project:
        assert project.section("corrections", 0).max() == 1


@pytest.mark.parametrize("at", range(4))
def test_broken_off_while_files_are_moved(folder, monkeypatch, at) -> None:
    """As a crash after `at` files: what is committed comes when it is opened."""
    moved = []
    real = Path.replace

    def broken(self: Path, target: Path) -> Path:
        if "staged" in str(self):
            moved.append(self)
            if len(moved) > at:
                raise OSError(errno.EIO, "broken off")
        return real(self, target)

    project = Project(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        project.do(replace(painted(1), lock=frozenset({1})))
        project.do(painted(8, z=2, name="cells"))
        with pytest.raises(OSError, match="broken off") if at < 3 else _nothing():
            project.flush()
        shutil.copytree(folder, folder.with_name("copy.emseg"))
    project.close()
    with Project(folder.with_name("copy.emseg")) as again:
        assert again.section("corrections", 0).max() == 1
        assert again.section("cells", 2).max() == 8
        assert len(again.edits()) == 2
        assert again.locked == {1}


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_a_line_cut_short_is_left_out(folder) -> None:
    with Project(folder) as project:
        project.do(painted(1))
    with (folder / "edits.jsonl").open("ab") as file:
        file.write(b'{"time": "2026-')
    with Project(folder) as project:
        assert len(project.edits()) == 1
        project.do(painted(2))
        project.flush()
        assert len(project.edits()) == 2


def test_an_id_that_changed_before_the_project_can_be_taken_back(folder) -> None:
    cells = np.zeros((3, 40, 50), np.uint32)
    cells[:, 5:9] = 3
    edit = Edit("merge in 3-D", "merged", ids=(IdChange(5, 3, 0, 3),))
    with Project(folder) as project:
        with pytest.raises(ValueError, match="older than the project"):
            project.undo(edit)
        project.undo(edit, cells)
    with Project(folder) as project:
        np.testing.assert_array_equal(saved_in(project)["cells"], cells)


def test_the_stack_is_found_moved_or_changed(folder, stack, tmp_path) -> None:
    with Project(folder) as project:
        assert project.info.source.path == "../data/em.tif"
        opened = project.open_source()
        assert opened.state == "same"
        assert opened.stack.voxel_size_nm == (50, 4, 4)
    # both moved together: the relative path still holds
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.move(folder, moved / "a.emseg")
    shutil.move(tmp_path / "data", moved / "data")
    with Project(moved / "a.emseg") as project:
        assert project.open_source().state == "same"
        shutil.move(moved / "data" / "em.tif", tmp_path / "other.tif")
        with pytest.raises(StackNotFoundError, match="say where it is now") as asked:
            project.open_source()
        assert asked.value.reference.name == "em"
        assert asked.value.tried
        assert project.open_source(tmp_path / "other.tif").state == "same"
    with Project(moved / "a.emseg") as project:
        assert project.open_source().state == "same"
        values = np.asarray(stack_of(tmp_path / "other.tif"))
        values[1] = 0
        save_stack(tmp_path / "other.tif", Stack(values), overwrite=True)
        opened = project.open_source()
        assert opened.state == "changed"
        assert "of sections 0, 1, 2, 1 differ" in opened.words
        save_stack(tmp_path / "other.tif", Stack(values[:2]), overwrite=True)
        with pytest.raises(ValueError, match="another one"):
            project.open_source()


def stack_of(path: Path) -> np.ndarray:
    from napari_emseg.io import open_stack

    stack = open_stack(path)
    return np.stack([stack.section(z) for z in range(stack.shape[0])])


def test_the_ending_of_the_name_may_be_left_out(tmp_path, stack) -> None:
    for name in ("b", "b.2"):
        with Project.create(tmp_path / name, stack) as project:
            assert project.path == tmp_path / f"{name}.emseg"


def test_what_is_no_project_is_said(tmp_path, folder, stack) -> None:
    with pytest.raises(FileNotFoundError, match="no such project"):
        Project(tmp_path / "none.emseg")
    with pytest.raises(UnreadableError, match="is no project"):
        Project(tmp_path / "data")
    with pytest.raises(FileExistsError, match="exists already"):
        Project.create(folder, stack)
    (folder / "review.json").write_text("{")
    with pytest.raises(UnreadableError, match="damaged"):
        Project(folder)
    text = json.loads((folder / "project.json").read_text()) | {"format": 99}
    (folder / "project.json").write_text(json.dumps(text))
    with pytest.raises(UnreadableError, match="later version"):
        Project(folder)
