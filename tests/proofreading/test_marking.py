"""Regions that somebody looked over: what was shown is an opinion from then on."""

from __future__ import annotations

import numpy as np
import pytest
from drawings import Drawn, drawn
from hypothesis import given
from hypothesis import strategies as st

from napari_emseg.core.regions import Region
from napari_emseg.proofreading import INSIDE, MEMBRANE, mark_reviewed, mark_to_do, paint

THREE = """
    #############
    #111#222#333#
    #111#222#333#
    #############
"""
MIDDLE = Region(0, 0, 3, 4, 7)


@pytest.fixture
def three() -> Drawn:
    return drawn(THREE)


def review(on: Drawn, region: Region = MIDDLE):
    return on.do(mark_reviewed(on.linked.sheet(0), region, on.linked.regions))


def test_all_that_is_shown_becomes_an_opinion(three: Drawn) -> None:
    three.linked.arrays["corrections"][0, 1, 5] = 3
    edit = review(three)
    assert [edit.words, three.linked.regions] == [
        "reviewed: 4 × 4 px of section 0",
        (MIDDLE,),
    ]
    expected = ["1111", "2132", "2122", "1111"]
    expected = np.array([[int(c) for c in row] for row in expected])
    np.testing.assert_array_equal(three.array("corrections")[:, 3:7], expected)
    assert not three.array("corrections")[:, :3].any()
    assert not three.array("corrections")[:, 7:].any()


def test_without_membranes_cells_tell(three: Drawn) -> None:
    three.linked.arrays["membranes"][:] = 0
    review(three)
    codes = three.array("corrections")[MIDDLE.area]
    assert codes[1, 1] == MEMBRANE
    assert codes[1, 2] == INSIDE


def test_without_membranes_cells_that_touch_have_a_wall() -> None:
    on = drawn("1111222 1111222")
    review(on, Region(0, 0, 0, 2, 4))
    # column 3 is a wall for what lies beyond the region
    assert on.array("corrections").tolist() == [[2, 2, 2, 1, 0, 0, 0]] * 2


def test_undo_takes_it_back(three: Drawn) -> None:
    before = three.state()
    review(three)
    three.history.undo()
    np.testing.assert_equal(three.state(), before)
    assert three.linked.regions == ()
    three.history.redo()
    assert three.linked.regions == (MIDDLE,)


def test_to_do_again_keeps_what_was_said_besides(three: Drawn) -> None:
    before = three.array("corrections")
    review(three)
    dot = np.ones((1, 1), bool)
    at = slice(1, 2), slice(5, 6)
    three.do(paint(three.linked.sheet(0), "corrections", dot, at, MEMBRANE))
    edits = three.history.undoable
    three.do(mark_to_do(three.linked.sheet(0), MIDDLE, (MIDDLE,), edits))
    before[1, 5] = MEMBRANE
    np.testing.assert_array_equal(three.array("corrections"), before)
    assert three.linked.regions == ()
    three.history.undo()
    assert three.linked.regions == (MIDDLE,)


def test_what_nobody_remembers_stays_and_is_said(three: Drawn) -> None:
    review(three)
    edit = mark_to_do(three.linked.sheet(0), MIDDLE, (MIDDLE,))
    assert edit.changes == ()
    assert "erase it there" in edit.words


def test_what_cannot_be_reviewed_says_why(three: Drawn) -> None:
    review(three)
    with pytest.raises(ValueError, match=r"reviewed already \(z 0, y 0:4, x 3:7\)"):
        review(three)
    with pytest.raises(ValueError, match="outside of the picture"):
        review(three, Region(0, 0, 0, 5, 5))
    empty = drawn("....\n....")
    with pytest.raises(ValueError, match="nothing is shown"):
        review(empty, Region(0, 0, 0, 2, 2))


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 12), st.booleans()), max_size=12
    )
)
def test_undoing_all_gives_back_the_first_state(steps) -> None:
    on = drawn(THREE)
    states = [(on.state(), on.linked.regions)]
    for y, x, back in steps:
        region = Region(0, y, x, y + 1, x + 1)
        sheet, regions = on.linked.sheet(0), on.linked.regions
        if region in regions and back:
            on.do(mark_to_do(sheet, region, regions, on.history.undoable))
        elif region not in regions:
            on.do(mark_reviewed(sheet, region, regions))
        else:
            continue
        states.append((on.state(), on.linked.regions))
    for before in states[-2::-1]:
        on.history.undo()
        np.testing.assert_equal((on.state(), on.linked.regions), before)
    for after in states[1:]:
        on.history.redo()
        np.testing.assert_equal((on.state(), on.linked.regions), after)


def test_a_region_to_do_again_comes_back_in_its_place(three: Drawn) -> None:
    regions = tuple(Region(0, y, 3, y + 1, 7) for y in range(4))
    for region in regions:
        review(three, region)
    sheet = three.linked.sheet(0)
    three.do(mark_to_do(sheet, regions[0], regions))
    assert three.linked.regions == regions[1:]
    three.history.undo()
    assert three.linked.regions == regions
