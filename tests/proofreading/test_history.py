"""Undo and redo: after any sequence of edits, all the way back is the first state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zarr
from drawings import Drawn, drawn
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scipy import ndimage as ndi

from napari_emseg.core.labels import touching
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading import (
    INSIDE,
    MEMBRANE,
    Edit,
    History,
    LinkedLabels,
    Rerun,
    SectionView,
    close_gap,
    cut,
    delete_membrane,
    draw_wire,
    fill,
    joined,
    lock,
    merge,
    merge_through,
    paint,
    split_through,
)
from napari_emseg.sample import synthetic

THIN = CorrectSettings(width=1, sliver=2, reach=8)
SECTIONS, ROWS, COLUMNS = 3, 24, 32
STEPS = 50 * settings().max_examples

points = st.tuples(st.integers(0, ROWS - 1), st.integers(0, COLUMNS - 1))
sections = st.integers(0, SECTIONS - 1)


def first_state() -> dict[str, np.ndarray]:
    """Cells with walls between them, some of them in several sections."""
    _, cells = synthetic(
        (SECTIONS, ROWS, COLUMNS), seed=3, cell_size=9, membrane_width=3, drift=0.4
    )
    return {
        "membranes": (cells == 0).astype(np.uint8),
        "cells": cells.copy(),
        "corrections": np.zeros(cells.shape, np.uint8),
    }


class Sitting(RuleBasedStateMachine):
    """A person who corrects, paints, undoes and redoes as it comes."""

    steps = 0
    edits = 0
    runs = 0

    @initialize()
    def start(self) -> None:
        self.first = first_state()
        self.linked = LinkedLabels(
            *(array.copy() for array in self.first.values()),
            probabilities=self.first["membranes"].astype(np.float32),
        )
        self.history = History(self.linked, THIN)
        self.met = np.zeros(self.linked.shape, bool)
        """Where cells have ever touched: the only places where a cell has membrane."""

    def teardown(self) -> None:
        if not hasattr(self, "history"):
            return
        self.linked.settle_all()
        last = self.state()
        locked = self.linked.locked
        n = len(self.history.undoable)
        for _ in range(n):
            self.history.undo()
        for name, array in self.state().items():
            np.testing.assert_array_equal(array, self.first[name], err_msg=name)
        assert not self.linked.locked
        for _ in range(n):
            self.history.redo()
        self.linked.settle_all()
        assert self.linked.locked == locked
        for name, array in self.state().items():
            np.testing.assert_array_equal(array, last[name], err_msg=name)

    def state(self) -> dict[str, np.ndarray]:
        return {name: np.array(a) for name, a in self.linked.arrays.items()}

    def attempt(self, tool: Callable[..., Edit], *args: Any, **options: Any) -> None:
        """Use a tool; a refusal leaves everything as it was."""
        type(self).steps += 1
        try:
            edit = tool(*args, **options)
        except ValueError as refusal:
            assert str(refusal)  # noqa: PT017 - most random places are refused
            return
        type(self).edits += 1
        self.history.do(edit)

    @invariant()
    def hand_work_holds(self) -> None:
        if hasattr(self, "linked"):
            membranes, cells, corrections = self.linked.arrays.values()
            assert (membranes[corrections == MEMBRANE] == 1).all()
            self.met |= touching(cells)
            assert (cells[(corrections == MEMBRANE) & ~self.met] == 0).all()
            assert (membranes[corrections == INSIDE] == 0).all()

    def sheet(self, z: int) -> SectionView:
        return self.linked.sheet(z)

    @rule(z=sections, a=points, b=points)
    def cut(self, z: int, a: Any, b: Any) -> None:
        self.attempt(cut, self.sheet(z), np.array([a, b]), settings=THIN)

    @rule(z=sections, a=points, b=points)
    def wire(self, z: int, a: Any, b: Any) -> None:
        self.attempt(draw_wire, self.sheet(z), np.array([a, b]), settings=THIN)

    @rule(z=sections, a=points)
    def gap(self, z: int, a: Any) -> None:
        self.attempt(close_gap, self.sheet(z), a, settings=THIN)

    @rule(z=sections, a=points, walls=st.integers(0, 3))
    def run_again(self, z: int, a: Any, walls: int) -> None:
        """Find the cells of a part of a section again, with other walls in it."""
        type(self).steps += 1
        self.linked.settle_all()
        found = self.first["membranes"][(z + walls) % SECTIONS] == 0
        found[:: 5 + 4 * walls] = False
        area = (slice(a[0] // 2, ROWS), slice(0, 1 + a[1]))
        new = ndi.label(found)[0].astype(np.uint32)[area]
        corrections = self.linked.arrays["corrections"][z][area]
        rerun = Rerun(
            self.linked.arrays["cells"],
            last_id=self.linked.last_id,
            locked=self.linked.locked,
        )
        before = np.array(self.linked.arrays["cells"])
        rerun.put(z, area, new, corrections)
        edit = rerun.finish()
        kept = np.isin(before, list(self.linked.locked))
        after = np.array(self.linked.arrays["cells"])
        assert (after[kept] == before[kept]).all(), "locked cells stay"
        if edit.changes:
            type(self).runs += 1
            self.history.note(edit)

    @rule(z=sections, a=points, b=points)
    def merge(self, z: int, a: Any, b: Any) -> None:
        self.attempt(merge, self.sheet(z), np.array([a, b]), settings=THIN)

    @rule(z=sections, a=points)
    def delete(self, z: int, a: Any) -> None:
        self.attempt(delete_membrane, self.sheet(z), a, settings=THIN)

    @rule(z=sections, a=points)
    def fill(self, z: int, a: Any) -> None:
        self.attempt(fill, self.sheet(z), a)

    @rule(z=sections, a=points)
    def lock(self, z: int, a: Any) -> None:
        self.attempt(lock, self.sheet(z), a)

    @rule(z=sections, a=points, y=sections, b=points)
    def merge_through(self, z: int, a: Any, y: int, b: Any) -> None:
        self.attempt(merge_through, self.linked, (z, a), (y, b))

    @rule(z=sections, a=points)
    def split_through(self, z: int, a: Any) -> None:
        self.attempt(split_through, self.linked, (z, a))

    @rule(
        z=sections,
        name=st.sampled_from(["membranes", "corrections", "cells"]),
        a=points,
        size=st.tuples(st.integers(1, 4), st.integers(1, 9)),
        value=st.integers(0, 5),
    )
    def brush(self, z: int, name: Any, a: Any, size: Any, value: int) -> None:
        where = np.ones((ROWS, COLUMNS), bool)[
            a[0] : a[0] + size[0], a[1] : a[1] + size[1]
        ]
        area = tuple(slice(i, i + n) for i, n in zip(a, where.shape, strict=True))
        self.attempt(paint, self.sheet(z), name, where, area, value, settings=THIN)

    @rule(z=sections)
    def look(self, z: int) -> None:
        type(self).steps += 1
        self.linked.settle(z)

    @rule(times=st.integers(1, 4))
    def undo(self, times: int) -> None:
        type(self).steps += 1
        for _ in range(min(times, len(self.history.undoable))):
            self.history.undo()

    @rule(times=st.integers(1, 4))
    def redo(self, times: int) -> None:
        type(self).steps += 1
        for _ in range(min(times, len(self.history.redoable))):
            self.history.redo()


def test_undoing_everything_gives_back_the_first_state() -> None:
    Sitting.steps = Sitting.edits = Sitting.runs = 0
    while Sitting.steps < STEPS:
        case = Sitting.TestCase()
        case.settings = settings(
            stateful_step_count=100,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        case.runTest()
    assert Sitting.edits > STEPS / 10, "most steps were refused"
    assert Sitting.runs > STEPS / 100


@pytest.fixture
def three() -> Drawn:
    return drawn("11#22#33 11#22#33 11#22#33", "11#22#33 11#22#33 11#22#33")


def test_more_than_a_hundred_steps(three: Drawn) -> None:
    before = three.state()
    for _ in range(150):
        three.do(lock(three.linked.sheet(0), (0, 0)))
    assert len(three.history.undoable) == 150
    for _ in range(150):
        three.history.undo()
    np.testing.assert_equal(three.state(), before)
    with pytest.raises(ValueError, match="nothing to undo"):
        three.history.undo()


def test_an_edit_after_undo_ends_redo(three: Drawn) -> None:
    three.do(lock(three.linked.sheet(0), (0, 0)))
    three.history.undo()
    three.do(lock(three.linked.sheet(0), (0, 3)))
    with pytest.raises(ValueError, match="nothing to redo"):
        three.history.redo()


def test_the_oldest_steps_are_forgotten_but_not_what_was_corrected() -> None:
    stack = drawn("11#22 11#22")
    few = History(stack.linked, CorrectSettings(steps=100))
    for k in range(130):
        area = (slice(0, 1), slice(0, 1))
        one = np.ones((1, 1), bool)
        value = 1 + k % 2
        few.do(paint(stack.linked.sheet(0), "corrections", one, area, value).by("me"))
    assert len(few.undoable) == 100
    said = few.corrections()
    assert len(said) == 130
    assert said[0].author == "me"
    assert said[0].areas == {0: (slice(0, 1), slice(0, 1))}


def test_memory_is_bounded() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 2**31, (1, 1200, 1200), dtype=np.uint32)
    linked = LinkedLabels(
        np.zeros(noise.shape, np.uint8), noise, np.zeros(noise.shape, np.uint8)
    )
    history = History(linked, CorrectSettings(memory=16))
    where = np.ones((1200, 1200), bool)
    whole = (slice(0, 1200), slice(0, 1200))
    for value in (1, 2, 3):
        history.do(paint(linked.sheet(0), "cells", where, whole, value))
        linked.arrays["cells"][0] = rng.integers(1, 2**31, (1200, 1200))
    assert len(history.undoable) < 3
    assert history.nbytes < 16e6


def test_merging_through_the_stack_touches_only_what_is_looked_at(three: Drawn) -> None:
    three.do(merge_through(three.linked, (0, (0, 0)), (0, (0, 3))))
    raw = three.linked.arrays["cells"]
    assert set(np.unique(raw[1])) == {0, 1, 2, 3}
    assert three.picture(1).split() == ["11#11#33"] * 3
    assert set(np.unique(raw[1])) == {0, 1, 3}
    three.history.undo()
    assert three.picture(1).split() == ["11#22#33"] * 3
    three.history.redo()
    assert three.picture(0).split() == ["11#11#33"] * 3


def test_splitting_through_the_stack(three: Drawn) -> None:
    with pytest.raises(ValueError, match="not in the section before 0"):
        split_through(three.linked, (0, (0, 0)))
    three.do(split_through(three.linked, (1, (0, 0))))
    assert three.picture(0).split() == ["11#22#33"] * 3
    assert three.picture(1).split() == ["44#22#33"] * 3
    with pytest.raises(ValueError, match="not in the section before"):
        split_through(three.linked, (1, (0, 0)))
    three.do(merge_through(three.linked, (0, (0, 0)), (1, (0, 0))))
    assert three.picture(1).split() == ["11#22#33"] * 3


def test_three_d_tools_say_why_they_refuse(three: Drawn) -> None:
    with pytest.raises(ValueError, match="both are cell 1"):
        merge_through(three.linked, (0, (0, 0)), (1, (0, 1)))
    with pytest.raises(ValueError, match="no cell at"):
        merge_through(three.linked, (0, (0, 2)), (1, (0, 1)))
    with pytest.raises(ValueError, match="no section 7"):
        merge_through(three.linked, (7, (0, 2)), (1, (0, 1)))
    three.do(lock(three.linked.sheet(0), (0, 3)))
    with pytest.raises(ValueError, match="cell 2 is locked"):
        merge_through(three.linked, (0, (0, 0)), (1, (0, 3)))
    with pytest.raises(ValueError, match="cell 2 is locked"):
        split_through(three.linked, (1, (0, 3)))


def test_a_stroke_through_several_sections_is_one_step(three: Drawn) -> None:
    before = three.state()
    one = np.ones((1, 2), bool)
    area = (slice(1, 2), slice(0, 2))
    parts = [
        paint(three.linked.sheet(z), "membranes", one, area, 1, settings=THIN)
        for z in (0, 1)
    ]
    three.do(joined("paint", parts))
    assert three.picture(1).split()[1] == "###22#33"
    three.history.undo()
    np.testing.assert_equal(three.state(), before)


def test_zarr_is_written_in_the_bounding_box_only(tmp_path) -> None:
    whole = {n: a.repeat(8, 1).repeat(8, 2) for n, a in first_state().items()}
    stores = {}
    for name, array in whole.items():
        stores[name] = zarr.create_array(
            str(tmp_path / f"{name}.zarr"),
            shape=array.shape,
            dtype=array.dtype,
            chunks=(1, 32, 32),
        )
        stores[name][:] = array
    linked = LinkedLabels(*stores.values())
    history = History(linked)
    files = [p for p in (tmp_path / "cells.zarr").rglob("*") if p.is_file()]
    before = {p: p.stat().st_mtime_ns for p in files}
    one = np.ones((4, 4), bool)
    history.do(paint(linked.sheet(1), "cells", one, (slice(40, 44), slice(40, 44)), 3))
    changed = [p for p in files if p.stat().st_mtime_ns != before[p]]
    assert len(changed) == 1
    history.undo()
    np.testing.assert_array_equal(stores["cells"][:], whole["cells"])


def test_linked_arrays_have_one_shape() -> None:
    a = np.zeros((1, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="one shape"):
        LinkedLabels(a, np.zeros((1, 4, 5), np.uint32), a)
