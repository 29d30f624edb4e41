"""Which section is next, and which cells are worth a look."""

from __future__ import annotations

import numpy as np
import pytest

from napari_emseg.core.records import SectionDone, drain
from napari_emseg.proofreading import cells_table, next_section


def test_the_next_section_to_do() -> None:
    assert next_section(0, 5, reviewed={1}, excluded={2}) == 3
    assert next_section(4, 5, reviewed={0}, excluded={1}) == 2
    assert next_section(0, 5, reviewed={4}, excluded=(), step=-1) == 3
    with pytest.raises(ValueError, match="no other section"):
        next_section(1, 3, reviewed={0}, excluded={2})


def stack() -> tuple[np.ndarray, np.ndarray]:
    """Five cells: 2 is tiny, 3 hides a membrane, 4 has a weak one, 5 ends."""
    cells = np.zeros((3, 72, 96), np.uint32)
    cells[:, 2:30, 2:30] = 1
    cells[:, 2:6, 33:37] = 2
    cells[:, 2:38, 48:84] = 3
    cells[:, 42:70, 2:30] = 4
    cells[:2, 42:70, 34:62] = 5
    membrane = np.where(cells == 0, np.float32(0.9), np.float32(0.05))
    membrane[:, 2:38, 64:67] = 0.45
    membrane[:, 39:72, 0:33][membrane[:, 39:72, 0:33] > 0.5] = 0.2
    return cells, membrane


def test_suspicious_cells_come_first() -> None:
    cells, membrane = stack()
    records: list[object] = []
    rows = drain(cells_table(cells, membrane, linked=True), records.append)
    assert [type(r) for r in records] == [SectionDone] * 3
    said = {row.cell: row.suspicion for row in rows}
    assert said == {
        1: "",
        2: "tiny",
        3: "membrane inside",
        4: "weak membrane",
        5: "ends in mid-stack",
    }
    assert rows[-1].cell == 1
    by_id = {row.cell: row for row in rows}
    assert by_id[1].size == 3 * 28 * 28
    assert by_id[1].boundary == pytest.approx(0.9, abs=0.02)
    assert by_id[5].sections == 2
    z, y, x = by_id[3].at
    assert cells[z, y, x] == 3


def test_cells_that_leave_the_picture_sideways_are_not_suspicious() -> None:
    cells, _ = stack()
    at_the_border = np.zeros_like(cells)
    at_the_border[:, 1:, :-1] = cells[:, :-1, 1:]
    at_the_border[:2, 62:, 34:62] = 5
    at_the_border[1, 10:40, 90:] = 6
    at_the_border[1, 33:37, 0:3] = 7
    rows = drain(cells_table(at_the_border, linked=True))
    said = {row.cell: row.suspicion for row in rows}
    assert said == {1: "", 2: "tiny", 3: "", 4: "", 5: "", 6: "", 7: ""}


def test_nor_are_those_beside_what_was_not_predicted() -> None:
    cells, membrane = stack()
    membrane[:, :, 62:] = np.nan
    membrane[:, 62:] = np.nan
    rows = {row.cell: row for row in drain(cells_table(cells, membrane, linked=True))}
    assert rows[5].suspicion == ""
    assert rows[1].boundary == pytest.approx(0.9, abs=0.02)
    assert np.isnan(drain(cells_table(cells, np.full_like(membrane, np.nan)))[0].inner)


def test_a_cell_that_comes_back_into_the_picture_ends_where_it_ends() -> None:
    cells = np.zeros((5, 40, 40), np.uint32)
    cells[:, 4:12, 4:36] = 1
    cells[0, 20:30, 0:20] = 2
    cells[1:3, 20:30, 6:20] = 2
    rows = drain(cells_table(cells, linked=True))
    assert {row.cell: row.suspicion for row in rows} == {1: "", 2: "ends in mid-stack"}


def test_membrane_that_a_cell_has_grown_over_is_not_inside_of_it() -> None:
    cells, membrane = stack()
    membrane[:, 2:10, 2:30] = 0.9
    membrane[:, 2:30, 2:10] = 0.9
    rows = drain(cells_table(cells, membrane))
    assert {row.cell: row.suspicion for row in rows}[1] == ""


def test_without_probabilities_sizes_remain() -> None:
    cells, _ = stack()
    rows = drain(cells_table(cells, sections=[1]))
    assert len(rows) == 5
    assert np.isnan(rows[0].boundary)
    assert {row.suspicion for row in rows} == {"", "tiny"}


def test_corrections_count_as_seen() -> None:
    cells, membrane = stack()
    corrections = np.zeros(cells.shape, np.uint8)
    corrections[:, 2:30, 60:70] = 2
    rows = drain(cells_table(cells, membrane, corrections=corrections))
    assert {row.cell: row.suspicion for row in rows}[3] == ""


def test_an_empty_stack_has_no_rows() -> None:
    assert drain(cells_table(np.zeros((2, 4, 4), np.uint32))) == []
