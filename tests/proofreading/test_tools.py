"""Every tool on sections drawn by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from drawings import Drawn, cells_from, drawn, membranes_from

from napari_emseg.core.labels import inside_mask
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading import (
    INSIDE,
    MEMBRANE,
    Edit,
    close_gap,
    cut,
    delete_membrane,
    draw_wire,
    fill,
    lock,
    merge,
    paint,
    replace_values,
    wire_field,
)
from napari_emseg.proofreading.section_view import SectionView, painted_along

THIN = CorrectSettings(width=1, sliver=2)

THREE = """
    #############
    #111#222#333#
    #111#222#333#
    #111#222#333#
    #111#222#333#
    #############
"""


def lines(picture: str) -> str:
    return "\n".join(picture.split())


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 6, 10, 51])
@pytest.mark.parametrize("upright", [True, False])
def test_a_line_is_as_wide_as_it_is_said_to_be(width: int, upright: bool) -> None:
    empty = np.zeros((1, 120, 120), np.uint8)
    names = ("membranes", "cells", "corrections")
    sheet = SectionView(0, dict.fromkeys(names, empty))
    along = np.arange(20, 101)
    across = np.full_like(along, 60)
    pixels = np.stack((along, across) if upright else (across, along), axis=1)
    wide, core, area = painted_along(sheet, pixels, width)
    rows, columns = (part.start for part in area)
    middle = wide[60 - rows] if upright else wide[:, 60 - columns]
    assert middle.sum() == width
    assert np.ptp(np.flatnonzero(middle)) == width - 1
    assert core.sum() == len(along)
    assert wide[core].all()


@pytest.fixture
def three() -> Drawn:
    return drawn(THREE)


def test_a_cut_makes_two_cells_and_membrane(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    edit = three.do(cut(sheet, np.array([[3, 4], [3, 8]]), settings=THIN))
    assert three.picture() == lines(
        """
        #############
        #111#222#333#
        #111#222#333#
        #111#####333#
        #111#444#333#
        #############
        """
    )
    assert "cell 2 into 2 and 4" in edit.words
    corrections = three.array("corrections")
    assert (corrections[3, 5:8] == MEMBRANE).all()
    assert np.count_nonzero(corrections) == 3
    assert three.linked.last_id == 4


def test_the_larger_piece_keeps_its_id(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    three.do(cut(sheet, np.array([[2, 4], [2, 8]]), settings=THIN))
    assert three.picture().splitlines()[1] == "#111#444#333#"
    assert three.picture().splitlines()[4] == "#111#222#333#"


def test_a_cut_through_two_cells(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    three.do(cut(sheet, np.array([[3, 0], [3, 8]]), settings=THIN))
    assert three.picture() == lines(
        """
        #############
        #111#222#333#
        #111#222#333#
        #########333#
        #444#555#333#
        #############
        """
    )


def test_a_cut_spares_cells_that_it_only_enters(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    three.do(cut(sheet, np.array([[3, 2], [3, 8]]), settings=THIN))
    assert three.picture() == lines(
        """
        #############
        #111#222#333#
        #111#222#333#
        #111#####333#
        #111#444#333#
        #############
        """
    )


def test_slivers_become_no_cells(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    edit = cut(sheet, np.array([[1, 4], [3, 6], [3, 8]]), settings=THIN)
    three.do(edit)
    settings = CorrectSettings(width=1, sliver=4)
    sheet = three.linked.sheet(0)
    with pytest.raises(ValueError, match="doesn't cut"):
        cut(sheet, np.array([[1, 10], [2, 9]]), settings=settings)


def test_a_stroke_that_ends_in_a_cell_cuts_nothing(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    with pytest.raises(ValueError, match="doesn't cut cell 2"):
        cut(sheet, np.array([[3, 4], [3, 6]]), settings=THIN)
    with pytest.raises(ValueError, match="no cell under the stroke"):
        cut(sheet, np.array([[0, 0], [0, 8]]), settings=THIN)


def test_merging_by_a_stroke_opens_the_wall(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    edit = three.do(merge(sheet, np.array([[2, 2], [2, 6]]), settings=THIN))
    assert three.picture() == lines(
        """
        #############
        #1111111#333#
        #1111111#333#
        #1111111#333#
        #1111111#333#
        #############
        """
    )
    assert "merged 2 into cell 1" in edit.words
    assert (three.array("corrections")[1:5, 4] == INSIDE).all()


def test_merging_three(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    three.do(merge(sheet, np.array([[2, 2], [2, 11]]), settings=THIN))
    assert three.picture().splitlines()[2] == "#11111111111#"


def test_the_membrane_to_a_third_cell_stays() -> None:
    section = drawn(
        """
        #########
        #111#222#
        #111#222#
        #111#222#
        #########
        #3333333#
        #########
        """
    )
    section.do(merge(section.linked.sheet(0), np.array([[2, 2], [2, 6]])))
    assert section.picture() == lines(
        """
        #########
        #1111111#
        #1111111#
        #1111111#
        #########
        #3333333#
        #########
        """
    )


def test_cells_that_touch_can_be_merged() -> None:
    section = drawn("1122 1122 1122")
    section.do(merge(section.linked.sheet(0), np.array([[1, 0], [1, 3]])))
    assert section.picture() == "1111\n1111\n1111"


def grown_together() -> Drawn:
    """Three cells of a volume: they touch, and have grown over their membranes."""
    section = drawn("1111122222 " * 3 + "3333333333 " * 4)
    section.linked.arrays["membranes"][0] = membranes_from(
        "..######.. " * 2 + "########## " * 3 + ".......... " * 2
    )
    return section


@pytest.mark.parametrize("ends", [[[0, 0], [0, 9]], [[1, 9], [1, 0]]])
def test_a_third_cell_that_touches_both_is_not_merged(ends: list[list[int]]) -> None:
    section = grown_together()
    before = section.state()
    edit = section.do(merge(section.linked.sheet(0), np.array(ends)))
    assert edit.words == "merged 2 into cell 1"
    np.testing.assert_array_equal(
        section.array("cells"), cells_from("1111111111 " * 3 + "3333333333 " * 4)
    )
    # what is nearer to the wall than to the third cell goes; that of the third stays
    assert not section.array("membranes")[0].any()
    assert not section.array("membranes")[1, 3:7].any()
    assert section.array("membranes")[3].all()
    section.history.undo()
    np.testing.assert_equal(section.state(), before)


def test_what_lies_between_two_clicks_is_not_merged() -> None:
    section = drawn("11#22 11#22 1#3#2 1#3#2")
    before = section.state()
    edit = section.do(merge(section.linked.sheet(0), np.array([[3, 0], [3, 4]])))
    assert edit.words == "merged 2 into cell 1"
    assert section.picture() == "11111\n11#11\n1#3#1\n1#3#1"
    section.history.undo()
    np.testing.assert_equal(section.state(), before)
    stroke = np.array([[3, 0], [3, 2], [3, 4]])
    section.do(merge(section.linked.sheet(0), stroke))
    assert set(np.unique(section.array("cells"))) == {0, 1}


def test_membrane_taken_from_one_cell_makes_it_one_with_no_other() -> None:
    section = grown_together()
    before = section.array("cells")
    for x, joined in ((4, False), (slice(4, 6), True)):
        where = np.zeros((7, 10), bool)
        where[0, x] = True
        area = (slice(0, 7), slice(0, 10))
        section.do(paint(section.linked.sheet(0), "membranes", where, area, 0))
        after = section.array("cells")
        assert (after[0, 0] == after[0, 9]) == joined
        np.testing.assert_array_equal(after[3:], before[3:])
        section.history.undo()


def test_a_click_on_membrane_that_a_cell_has_grown_over_deletes_it() -> None:
    section = grown_together()
    for x in (2, 3, 7):
        edit = section.do(delete_membrane(section.linked.sheet(0), (0, x)))
        assert edit.words == "merged 2 into cell 1"
        section.history.undo()
    # a spur that begins at the wall is in cell 1 alone, and so is what lies apart
    section = drawn("11111111112222 " * 5)
    section.linked.arrays["membranes"][0] = membranes_from(
        ".........##... " * 2 + "..#########... " + ".........##... " * 2
    )
    with pytest.raises(ValueError, match=r"no membrane at \(2, 3\) but cell 1"):
        delete_membrane(section.linked.sheet(0), (2, 3))
    section = grown_together()
    section.linked.arrays["membranes"][0, 0, 0] = 1
    with pytest.raises(ValueError, match=r"no membrane at \(0, 0\) but cell 1"):
        delete_membrane(section.linked.sheet(0), (0, 0))


def test_cells_that_are_no_neighbours_are_not_merged(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    with pytest.raises(ValueError, match="only cell 1"):
        merge(sheet, np.array([[2, 2], [3, 2]]))
    wide = drawn("1##########2 1##########2")
    with pytest.raises(ValueError, match="no neighbours"):
        merge(
            wide.linked.sheet(0),
            np.array([[0, 0], [0, 11]]),
            settings=CorrectSettings(reach=5),
        )


def test_deleting_the_wall_between_two_cells(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    three.do(delete_membrane(sheet, (2, 8)))
    assert three.picture() == lines(
        """
        #############
        #111#2222222#
        #111#2222222#
        #111#2222222#
        #111#2222222#
        #############
        """
    )


def test_cells_that_grew_over_a_membrane_are_merged_with_it_gone(three: Drawn) -> None:
    """Two cells with a line between them, on a membrane five px wide."""
    section = drawn("\n".join(["1111#####2222"] * 5))
    cells = section.linked.arrays["cells"]
    cells[0, :, 4:6], cells[0, :, 7:9] = 1, 2
    for point in ((2, 6), (2, 5), (2, 4)):
        section.do(delete_membrane(section.linked.sheet(0), point))
        assert section.picture() == "\n".join(["1" * 13] * 5)
        assert (section.array("corrections")[:, 4:9] == INSIDE).all()
        section.history.undo()
    with pytest.raises(ValueError, match="no membrane"):
        delete_membrane(section.linked.sheet(0), (2, 2))


SPUR = """
    ################
    #11111111111111#
    #11111111111111#
    #11111111111111#
    #########111111#
    #11111111111111#
    #11111111111111#
    #11111111111111#
    ################
"""


def test_deleting_a_membrane_that_leads_nowhere() -> None:
    section = drawn(SPUR)
    section.do(delete_membrane(section.linked.sheet(0), (4, 5)))
    row = section.picture().splitlines()[4]
    assert row.count("1") >= 13
    assert section.picture().splitlines()[0] == "#" * 16


def test_deleting_an_island() -> None:
    section = drawn("111111 11##11 11##11 111111")
    section.do(delete_membrane(section.linked.sheet(0), (1, 2)))
    assert section.picture() == "111111\n" * 3 + "111111"


def test_no_membrane_to_delete(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    with pytest.raises(ValueError, match=r"no membrane at .* but cell 2"):
        delete_membrane(sheet, (2, 6))
    with pytest.raises(ValueError, match="outside of the picture"):
        delete_membrane(sheet, (2, 60))


def test_a_junction_is_asked_about() -> None:
    section = drawn("111#222 111#222 ####### 333#444 333#444")
    with pytest.raises(ValueError, match="meet here"):
        delete_membrane(section.linked.sheet(0), (2, 3))


def test_filling_holes_and_free_space() -> None:
    section = drawn("11111# 1..11# 11#11# 11111# ###### ..#... ..#...")
    sheet = section.linked.sheet(0)
    section.do(fill(sheet, (0, 0)))
    assert section.picture().splitlines()[:4] == ["11111#"] * 4
    section.do(fill(section.linked.sheet(0), (5, 4)))
    assert section.picture().splitlines()[5:] == ["..#222"] * 2
    with pytest.raises(ValueError, match="this is membrane"):
        fill(section.linked.sheet(0), (4, 0))
    with pytest.raises(ValueError, match="no holes"):
        fill(section.linked.sheet(0), (0, 0))


def test_a_locked_cell_is_not_touched(three: Drawn) -> None:
    edit = three.do(lock(three.linked.sheet(0), (2, 6)))
    assert "cell 2 is locked" in edit.words
    before = three.picture()
    sheet = three.linked.sheet(0)
    across = np.array([[3, 4], [3, 8]])
    here = np.ones((1, 3), bool)
    area = (slice(2, 3), slice(5, 8))
    for tool in (
        lambda: cut(sheet, across, settings=THIN),
        lambda: merge(sheet, np.array([[2, 2], [2, 6]])),
        lambda: delete_membrane(sheet, (2, 8)),
        lambda: fill(sheet, (2, 6)),
        lambda: close_gap(sheet, (2, 6)),
        lambda: draw_wire(sheet, np.array([[3, 4], [3, 8]]), settings=THIN),
        lambda: paint(sheet, "membranes", here, area, 1),
        lambda: paint(sheet, "cells", here, area, 1),
        lambda: paint(sheet, "cells", here, (slice(2, 3), slice(1, 4)), 2),
    ):
        with pytest.raises(ValueError, match="cell 2 is locked; unlock it"):
            tool()
    assert three.picture() == before
    three.do(lock(three.linked.sheet(0), (2, 6)))
    assert not three.linked.locked
    three.do(cut(three.linked.sheet(0), across, settings=THIN))


def test_a_brush_beside_a_locked_cell_spares_it(three: Drawn) -> None:
    three.do(lock(three.linked.sheet(0), (2, 6)))
    where = np.ones((4, 4), bool)
    area = (slice(1, 5), slice(3, 7))
    three.do(paint(three.linked.sheet(0), "membranes", where, area, 1))
    assert three.picture().splitlines()[2] == "#11##222#333#"


def test_a_wire_beside_a_locked_cell_spares_it(three: Drawn) -> None:
    three.do(lock(three.linked.sheet(0), (2, 6)))
    sheet = three.linked.sheet(0)
    path = np.array([[1, 4], [4, 4]])
    edit = three.do(draw_wire(sheet, path, settings=CorrectSettings(width=3)))
    assert three.picture().splitlines()[2] == "#11##222#333#"
    assert edit.tool == "live-wire"


GAP = """
    ####################
    #111111111111111111#
    #111111111111111111#
    #111111111111111111#
    #######111##########
    #111111111111111111#
    #111111111111111111#
    #111111111111111111#
    ####################
"""


def test_closing_a_gap_takes_one_click_near_it() -> None:
    section = drawn(GAP)
    edit = close_gap(section.linked.sheet(0), (3, 8), settings=THIN)
    assert "separates" in edit.words
    assert "px from cell 1" in edit.words
    assert section.picture() == lines(GAP)  # nothing is done before it is applied
    section.do(edit)
    rows = section.picture().splitlines()
    assert {*rows[1], *rows[7]} == {"#", "1", "2"}
    assert rows[1] != rows[7]


def test_where_no_gap_is_it_says_so(three: Drawn) -> None:
    sheet = three.linked.sheet(0)
    with pytest.raises(ValueError, match="no gap here"):
        close_gap(sheet, (2, 4))
    wide = drawn("\n".join(["1" * 60] * 60))
    with pytest.raises(ValueError, match="separates nothing"):
        close_gap(wide.linked.sheet(0), (30, 30), settings=CorrectSettings(reach=8))


def test_without_probabilities_there_is_nothing_to_follow() -> None:
    section = drawn(GAP, probabilities=False)
    sheet = section.linked.sheet(0)
    with pytest.raises(ValueError, match="no membrane probabilities"):
        wire_field(sheet, (4, 3))
    with pytest.raises(ValueError, match="no membrane probabilities"):
        close_gap(sheet, (4, 8))


RING = """
    ..................
    ...###########....
    ...#.........#....
    ...#.........#....
    ...#.........#....
    ...###########....
    ..................
"""


def test_the_wire_follows_the_ridge() -> None:
    section = drawn(
        "\n".join("".join(c * 3 for c in r) for r in RING.split() for _ in range(3))
    )
    field = wire_field(section.linked.sheet(0), (4, 10))
    path = field.path_to((16, 25))
    assert tuple(path[0]) == (4, 10)
    assert tuple(path[-1]) == (16, 25)
    assert section.array("membranes")[tuple(path.T)].all()
    assert all(np.abs(b - a).max() == 1 for a, b in pairwise(path))


def test_the_wire_ends_at_the_border_of_its_window() -> None:
    section = drawn("\n".join(["." * 90] * 90))
    settings = CorrectSettings(window=32)
    field = wire_field(section.linked.sheet(0), (45, 45), settings=settings)
    assert tuple(field.path_to((45, 200))[-1]) == (45, 77)
    with pytest.raises(ValueError, match="outside of the picture"):
        wire_field(section.linked.sheet(0), (99, 3))


def test_a_wire_needs_two_points(three: Drawn) -> None:
    with pytest.raises(ValueError, match="two points"):
        draw_wire(three.linked.sheet(0), np.array([[2, 2]]))


def test_painting_membrane_parts_a_cell_and_erasing_joins_it(three: Drawn) -> None:
    where = np.ones((1, 3), bool)
    area = (slice(2, 3), slice(5, 8))
    three.do(paint(three.linked.sheet(0), "membranes", where, area, 1, settings=THIN))
    rows = three.picture().splitlines()
    assert rows[1:5] == [
        "#111#444#333#",
        "#111#####333#",
        "#111#222#333#",
        "#111#222#333#",
    ]
    three.do(paint(three.linked.sheet(0), "corrections", where, area, INSIDE))
    assert three.picture().splitlines()[1:5] == ["#111#222#333#"] * 4


def test_painting_a_cell_makes_its_pixels_inside_and_walls_where_it_touches() -> None:
    section = drawn("#########\n#1111#..#\n#1111#..#\n#########")
    area = slice(1, 3), slice(3, 8)
    where = np.ones((2, 5), bool)
    section.do(paint(section.linked.sheet(0), "cells", where, area, 7))
    assert section.array("cells")[1].tolist() == [0, 1, 1, 7, 7, 7, 7, 7, 0]
    assert section.picture().splitlines()[1:3] == ["#1##7777#"] * 2
    assert section.array("corrections")[1].tolist() == [0, 0, 1, 1, 2, 2, 2, 2, 0]
    assert section.linked.last_id == 7


DENSE = """
    111122
    111122
    111122
    333322
"""


def replace_cells(on: Drawn, ids: np.ndarray) -> None:
    for edit in replace_values(on.linked.sheet(0), "cells", ids):
        on.do(edit)


def test_ids_that_touch_get_a_wall_and_joining_them_takes_it_away() -> None:
    section = drawn("......\n.####.\n......\n......")
    before = section.state()
    ids = cells_from(DENSE)
    replace_cells(section, ids)
    walls = membranes_from("...##. ...##. #####. #####.")
    np.testing.assert_array_equal(section.array("cells"), ids)
    np.testing.assert_array_equal(section.array("membranes"), walls)
    assert (walls == 1 - inside_mask(ids, "cells")).all(), "as labels are read"
    said = np.where(walls, MEMBRANE, INSIDE)
    np.testing.assert_array_equal(section.array("corrections"), said)
    dense = section.state()

    joined = np.where(ids == 3, 1, ids)
    replace_cells(section, joined)
    np.testing.assert_array_equal(section.array("cells"), joined)
    np.testing.assert_array_equal(
        section.array("membranes"), membranes_from("...##. " * 4)
    )
    section.history.undo()
    np.testing.assert_equal(section.state(), dense)
    section.history.undo()
    np.testing.assert_equal(section.state(), before)


def test_deleting_the_wall_between_cells_that_touch() -> None:
    section = drawn("......\n" * 4)
    replace_cells(section, cells_from(DENSE))
    before = section.state()
    # on either side of the wall, and a pixel beside it
    for x in (2, 3, 4, 5):
        section.do(delete_membrane(section.linked.sheet(0), (0, x)))
        assert section.array("cells")[0].tolist() == [1] * 6
        assert not section.array("membranes")[:2].any()
        section.history.undo()
        np.testing.assert_equal(section.state(), before)
    sheet = section.linked.sheet(0)
    with pytest.raises(ValueError, match="cells 1, 2, 3 meet here"):
        delete_membrane(sheet, (2, 3))
    with pytest.raises(ValueError, match=r"no membrane at .* but cell 1"):
        delete_membrane(sheet, (0, 0))


def test_a_wall_beside_a_locked_cell_is_drawn_on_the_other_side() -> None:
    section = drawn("1111..")
    section.do(lock(section.linked.sheet(0), (0, 0)))
    replace_cells(section, cells_from("111122"))
    assert section.array("membranes").tolist() == [[0, 0, 0, 0, 1, 0]]
    assert section.array("corrections").tolist() == [[0, 0, 0, 0, 1, 2]]


def test_a_line_between_ids_is_left_as_it_is() -> None:
    section = drawn("11#22#")
    replace_cells(section, cells_from("33.44."))
    assert section.array("membranes").tolist() == [[0, 0, 1, 0, 0, 1]]
    assert section.array("corrections").tolist() == [[2, 2, 0, 2, 2, 0]]


def test_taking_an_opinion_back_changes_nothing_else(three: Drawn) -> None:
    area = (slice(1, 2), slice(4, 5))
    one = np.ones((1, 1), bool)
    three.do(paint(three.linked.sheet(0), "corrections", one, area, 3))
    before = three.picture()
    three.do(paint(three.linked.sheet(0), "corrections", one, area, 0))
    assert three.picture() == before
    assert not three.array("corrections").any()
    with pytest.raises(ValueError, match="nothing to change"):
        paint(three.linked.sheet(0), "corrections", one, area, 0)


def test_an_edit_is_as_large_as_what_it_changes() -> None:
    rng = np.random.default_rng(0)
    small = drawn(THREE)
    edit = cut(small.linked.sheet(0), np.array([[3, 4], [3, 8]]), settings=THIN)
    assert edit.nbytes < 2500
    assert isinstance(edit, Edit)
    assert edit.sections == {0}
    del rng
