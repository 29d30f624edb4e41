"""Runs after hand work: what was done by hand stays, and ids stay."""

from __future__ import annotations

import numpy as np
import pytest
from drawings import Drawn, cells_from, drawn

from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading import (
    INSIDE,
    MEMBRANE,
    Rerun,
    SmallestPieces,
    burn_in,
    burnt_in,
    cut,
    lock,
    paint,
)
from napari_emseg.proofreading.rerun import parted

THIN = CorrectSettings(width=1, sliver=2)
THREE = """
    #############
    #111#222#333#
    #111#222#333#
    #111#222#333#
    #111#222#333#
    #############
"""
# the same place as another network sees it: 1 and 2 are one, 3 is 1
OTHERS = """
    #############
    #2222222#111#
    #2222222#111#
    #2222222#111#
    #2222222#111#
    #############
"""
ALL = (slice(0, 6), slice(0, 13))


def run(stack: Drawn, found: dict[int, str]) -> None:
    """Put other cells into sections, as a run does, and keep it as a step."""
    rerun = Rerun(
        stack.linked.arrays["cells"],
        last_id=stack.linked.last_id,
        locked=stack.linked.locked,
    )
    for z, picture in found.items():
        rerun.put(z, ALL, cells_from(picture), stack.array("corrections", z))
    stack.history.note(rerun.finish())


def test_cells_that_are_found_again_keep_their_ids() -> None:
    stack = drawn(THREE)
    run(stack, {0: THREE.translate(str.maketrans("123", "312"))})
    np.testing.assert_array_equal(stack.array("cells"), cells_from(THREE))


def test_a_cell_that_became_another_gets_a_new_id() -> None:
    stack = drawn(THREE)
    run(stack, {0: OTHERS})
    cells = stack.array("cells")
    assert set(np.unique(cells[:, 9:])) == {0, 3}
    assert set(np.unique(cells[:, :8])) == {0, 4}
    assert stack.linked.last_id == 4


def test_ids_go_by_the_whole_stack() -> None:
    stack = drawn(THREE, THREE)
    part = THREE.replace("222", "22#").replace("1", "5")
    run(stack, {1: part, 0: THREE.replace("1", "5")})
    assert set(np.unique(stack.array("cells", 1))) == {0, 1, 2, 3}


def test_a_locked_cell_keeps_id_and_shape() -> None:
    stack = drawn(THREE)
    stack.do(lock(stack.linked.sheet(0), (2, 2)))
    run(stack, {0: OTHERS})
    cells = stack.array("cells")
    before = cells_from(THREE)
    np.testing.assert_array_equal(cells == 1, before == 1)
    # a line stays between the locked cell and what is left of the new one
    assert not cells[:, 4].any()
    # and that is cell 2 as it was
    np.testing.assert_array_equal(cells == 2, before == 2)


def test_new_cells_that_touch_each_other_touch_locked_ones_too() -> None:
    stack = drawn("11122222 11122222")
    stack.do(lock(stack.linked.sheet(0), (0, 0)))
    run(stack, {0: "77888999 77888999"})
    cells = stack.array("cells")
    assert (cells[:, :3] == 1).all()
    assert (cells[:, 3:5] == cells[0, 3]).all()
    assert (cells[:, 5:] == cells[0, 5]).all()
    assert len({0, 1, cells[0, 3], cells[0, 5]}) == 4


def test_what_a_locked_cell_leaves_little_of_is_given_up() -> None:
    stack = drawn(THREE)
    stack.do(lock(stack.linked.sheet(0), (2, 6)))
    run(stack, {0: THREE.replace("1#222#3", "#77777#")})
    cells = stack.array("cells")
    np.testing.assert_array_equal(cells == 2, cells_from(THREE) == 2)
    assert set(np.unique(cells)) == {0, 1, 2, 3}


WHOLE = """
    #################
    #111111111111111#
    #111111111111111#
    #111111111111111#
    #################
"""
# pieces of 6, 15 and 18 px, where membrane is drawn in columns 3 and 9
CUT = WHOLE.replace("#111111111111111#", "#22#33333#111111#")


@pytest.mark.parametrize(
    ("old", "inside", "smallest", "pieces"),
    [
        (WHOLE, (), SmallestPieces(), (6, 15, 18)),
        (WHOLE, (), SmallestPieces(7, 0), (15, 18)),
        # the largest stays, whatever its size
        (WHOLE, (), SmallestPieces(4, 100), (18,)),
        (WHOLE, (), SmallestPieces(4, 15), (15, 18)),
        # as a person cut them before
        (CUT, (), SmallestPieces(4, 100), (6, 15, 18)),
        (CUT, (), SmallestPieces(7, 100), (15, 18)),
        (WHOLE, ((2, 1),), SmallestPieces(7, 100), (6, 18)),
    ],
)
def test_what_drawn_membrane_cuts_off_is_a_cell_or_none(
    old, inside, smallest, pieces
) -> None:
    codes = np.zeros((5, 17), np.uint8)
    codes[1:4, [3, 9]] = MEMBRANE
    for place in inside:
        codes[place] = INSIDE
    found, next_id = parted(cells_from(WHOLE), cells_from(old), codes, 7, smallest)
    ids, sizes = np.unique(found[found > 0], return_counts=True)
    assert sorted(sizes.tolist()) == list(pieces)
    assert ids.tolist() == [1, *range(7, next_id)]
    assert (found == 1).sum() == 18


def test_profiles_that_were_apart_stay_of_one_cell() -> None:
    apart = WHOLE.replace("#111111111111111#", "#1111####1111111#")
    codes = np.zeros((5, 17), np.uint8)
    codes[1:4, 12] = MEMBRANE
    found, next_id = parted(cells_from(apart), cells_from(apart), codes, 2)
    expected = apart.replace("####1111111#", "####222#111#")
    assert next_id == 3
    np.testing.assert_array_equal(found[2] > 0, cells_from(expected)[2] > 0)
    assert found[2, 1] == 1
    assert sorted(found[2, [9, 14]]) == [1, 2]


def test_a_run_over_a_part_leaves_the_rest() -> None:
    stack = drawn(THREE)
    rerun = Rerun(stack.linked.arrays["cells"], last_id=3)
    area = (slice(0, 6), slice(8, 13))
    nothing = np.zeros((6, 5), np.uint32)
    rerun.put(0, area, nothing, nothing.astype(np.uint8))
    edit = rerun.finish()
    assert set(np.unique(stack.array("cells"))) == {0, 1, 2}
    assert "1 section found again" in edit.words


def test_predict_edit_predict_undo() -> None:
    """Corrections outlive a new prediction, and every step can be taken back."""
    stack = drawn(THREE)
    first = stack.state()
    run(stack, {0: THREE})
    across = np.array([[3, 4], [3, 8]])
    stack.do(cut(stack.linked.sheet(0), across, settings=THIN))
    edited = stack.state()

    probabilities = np.where(cells_from(OTHERS) == 0, np.float32(0.8), np.float32(0))
    hand = burn_in(probabilities, stack.array("corrections"))
    assert (hand[3, 5:8] == 1).all()
    membranes = burnt_in(
        (probabilities > 0.5).astype(np.uint8), stack.array("corrections")
    )
    assert (membranes[3, 5:8] == 1).all()

    run(stack, {0: OTHERS})
    rerun = stack.state()
    assert not np.array_equal(rerun["cells"], edited["cells"])
    np.testing.assert_array_equal(rerun["corrections"], edited["corrections"])

    stack.history.undo()
    np.testing.assert_equal(stack.state(), edited)
    stack.history.undo()
    stack.history.undo()
    np.testing.assert_equal(stack.state(), first)
    for _ in range(3):
        stack.history.redo()
    np.testing.assert_equal(stack.state(), rerun)


def test_a_cut_outlives_a_run_that_does_not_see_it() -> None:
    stack = drawn(THREE)
    across = np.array([[3, 4], [3, 8]])
    stack.do(cut(stack.linked.sheet(0), across, settings=THIN))
    by_hand = stack.array("cells")
    run(stack, {0: THREE})
    np.testing.assert_array_equal(stack.array("cells"), by_hand)


def test_hand_beats_network() -> None:
    section = drawn(THREE)
    one = np.ones((1, 1), bool)
    for value, place in ((1, (2, 2)), (2, (0, 0)), (3, (2, 4))):
        area = tuple(slice(i, i + 1) for i in place)
        section.do(paint(section.linked.sheet(0), "corrections", one, area, value))
    corrections = section.array("corrections")
    grey = np.full(corrections.shape, np.float32(0.3))
    burnt = burn_in(grey, corrections)
    assert burnt[2, 2] == 1
    assert burnt[0, 0] == burnt[2, 4] == 0
    assert burnt[1, 1] == pytest.approx(0.3)
    network = np.ones(corrections.shape, np.uint8)
    assert burnt_in(network, corrections)[0, 0] == 0
    assert burnt_in(network * 0, corrections)[2, 2] == 1
