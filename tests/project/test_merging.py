"""Two people's work as one: nothing of either is lost, and disagreement is listed."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from drawing import saved_in
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.project import Merged, Project, iter_merge
from napari_emseg.project.merge_projects import Prefer
from napari_emseg.proofreading import Change, Edit

SHAPE = (4, 40, 50)
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STACK = Stack(np.arange(np.prod(SHAPE), dtype=np.uint16).reshape(SHAPE), name="em")


def change(
    project: Project, name: str, z: int, value: int, rows: slice, hour: int = 0
) -> None:
    """Paint rows, through the whole section, as an edit."""
    area = rows, slice(0, SHAPE[2])
    old = np.asarray(project.section(name, z))[area]
    new = np.full_like(old, value)
    made = Change.between(name, z, area, old, new)
    time = NOON + timedelta(hours=hour)
    project.do(Edit("paint", "painted", (made,), last_id=value, time=time))
    project.flush()


def merge(a: Path, b: Path, prefer: Prefer = "none") -> tuple[Merged, Project]:
    out = a.with_name("out.emseg")
    shutil.rmtree(out, ignore_errors=True)
    with Project(a, read_only=True) as one, Project(b, read_only=True) as two:
        merged = drain(iter_merge(one, two, out, prefer=prefer))
    return merged, Project(out, read_only=True)


@pytest.fixture
def two(tmp_path) -> tuple[Project, Project]:
    """Two copies of one project, in which every section is one cell."""
    first = tmp_path / "a.emseg"
    with Project.create(first, STACK, author="Cy") as project:
        for z in range(SHAPE[0]):
            change(project, "cells", z, 1, slice(0, 40))
    shutil.copytree(first, tmp_path / "b.emseg")
    a = Project(first, author="Ada")
    b = Project(tmp_path / "b.emseg", author="Ben")
    yield a, b
    a.close()
    b.close()


def test_opinions_of_both_count_and_conflicts_are_listed(two) -> None:
    a, b = two
    change(a, "corrections", 0, 1, slice(0, 10))
    a.do(Edit("review", review=(Region(0, 0, 0, 9, 9),)))
    a.flush()
    change(b, "corrections", 0, 1, slice(5, 20))
    change(b, "corrections", 1, 2, slice(0, 3))
    b.review_regions([Region(0, 0, 0, 9, 9), Region(1, 0, 0, 3, 9)])
    b.flush()
    change(a, "corrections", 2, 1, slice(0, 10), hour=1)
    change(b, "corrections", 2, 2, slice(8, 12), hour=2)
    merged, project = merge(a.path, b.path)
    found = saved_in(project)["corrections"]
    assert project.regions == (Region(0, 0, 0, 9, 9), Region(1, 0, 0, 3, 9))
    assert (found[0, :20] == 1).all()
    assert not found[0, 20:].any()
    assert (found[1, :3] == 2).all()
    assert (found[2, :8] == 1).all()
    assert not found[2, 8:10].any()
    assert (found[2, 10:12] == 2).all()
    (conflict,) = merged.conflicts
    assert (conflict.kind, conflict.z, conflict.pixels) == ("corrections", 2, 100)
    assert conflict.area == (slice(8, 10), slice(0, 50))
    assert "Ada and Ben" in conflict.words
    assert merged.corrections == (50 * (5 + 8), 50 * (10 + 3 + 2))
    # no cell is left where either drew membrane
    assert not saved_in(project)["cells"][0, :20].any()


@pytest.mark.parametrize(("prefer", "value"), [("first", 1), ("second", 2)])
def test_one_may_be_preferred(two, prefer, value) -> None:
    a, b = two
    change(a, "corrections", 2, 1, slice(0, 10))
    change(b, "corrections", 2, 2, slice(0, 10))
    _, project = merge(a.path, b.path, prefer)
    assert (saved_in(project)["corrections"][2, :10] == value).all()


@pytest.mark.parametrize("later", [0, 1])
def test_the_later_opinion_may_be_preferred(two, later) -> None:
    change(two[0], "corrections", 2, 1, slice(0, 10), hour=2 - later)
    change(two[1], "corrections", 2, 2, slice(0, 10), hour=1 + later)
    _, project = merge(two[0].path, two[1].path, "latest")
    assert (saved_in(project)["corrections"][2, :10] == 1 + later).all()


def test_cells_are_those_of_who_changed_them(two) -> None:
    a, b = two
    change(a, "cells", 0, 2, slice(20, 40))  # a new cell, of a
    change(b, "cells", 1, 2, slice(0, 5))  # another, of b, with the same id
    change(a, "cells", 2, 3, slice(0, 5))
    change(b, "cells", 2, 4, slice(0, 5))
    b.lock_cells([1, 2])
    a.mark([3], "reviewed")
    b.mark([3], "excluded")
    b.mark([1], "reviewed")
    b.flush()
    a.flush()
    merged, project = merge(a.path, b.path)
    cells = saved_in(project)["cells"]
    assert (cells[0, 20:] == 2).all()
    new = cells[1, 0, 0]
    assert new not in (0, 1, 2, 3, 4)
    assert (cells[1, :5] == new).all()
    assert (cells[1, 5:] == 1).all()
    assert (cells[2, :5] == 3).all()
    assert merged.cells == (1,)
    assert {(c.kind, c.z) for c in merged.conflicts} == {("cells", 2), ("review", 3)}
    assert project.locked == {1, new}
    assert project.review.sections == {1: "reviewed"}
    # the past in common is told once
    authors = [edit.author for edit in project.edits()]
    assert sorted(authors) == ["Ada"] * 2 + ["Ben"] * 2 + ["Cy"] * 4


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_either_order_gives_the_same_opinions(tmp_path_factory, seed) -> None:
    rng = np.random.default_rng(seed)
    folders, given = [], []
    for name in "ab":
        values = rng.integers(0, 3, SHAPE).astype(np.uint8)
        values[rng.random(SHAPE) < 0.7] = 0
        folders.append(tmp_path_factory.mktemp("m") / f"{name}.emseg")
        with Project.create(folders[-1], STACK) as project:
            for z in range(SHAPE[0]):
                project.put("corrections", z, (slice(0, 40), slice(0, 50)), values[z])
        given.append(values)
    one, forth = merge(*folders)
    two, back = merge(*folders[::-1])
    found = saved_in(forth)["corrections"]
    np.testing.assert_array_equal(found, saved_in(back)["corrections"])
    differ = (given[0] > 0) & (given[1] > 0) & (given[0] != given[1])
    expected = np.where(differ, 0, np.maximum(*given))
    np.testing.assert_array_equal(found, expected)
    assert sum(c.pixels for c in one.conflicts) == differ.sum()
    assert one.corrections == two.corrections[::-1]


def test_different_stacks_are_refused(tmp_path, two) -> None:
    other = Stack(np.zeros(SHAPE, np.uint8), name="other")
    with (
        Project.create(tmp_path / "c.emseg", other) as project,
        pytest.raises(ValueError, match=r"different stacks: em .* and other"),
    ):
        iter_merge(two[0], project, tmp_path / "out.emseg")
    assert not (tmp_path / "out.emseg").exists()
