from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_emseg.core.labels import inside_mask, touching

CELLS = st.integers(0, 3)


def drawn(picture: str) -> np.ndarray:
    return np.array([[int(c) for c in row] for row in picture.split()], np.uint16)


def test_masks_are_above_zero() -> None:
    labels = drawn("012 300")
    np.testing.assert_array_equal(inside_mask(labels, "inside"), labels > 0)
    np.testing.assert_array_equal(inside_mask(labels, "membrane"), labels == 0)


def test_cells_that_touch_get_a_membrane_of_two_pixels() -> None:
    found = inside_mask(drawn("11222 11222 11333 00333"), "cells")
    wanted = drawn("10011 10000 10000 00111") > 0
    np.testing.assert_array_equal(found, wanted)


def test_cells_apart_or_at_a_corner_do_not_touch() -> None:
    assert not touching(drawn("1102 1102 0000 3300")).any()
    assert not touching(drawn("10 02")).any()


def test_sections_do_not_touch_each_other() -> None:
    stack = np.stack([drawn("11 11"), drawn("22 22")])
    assert not touching(stack).any()


@given(
    hnp.arrays(
        np.uint32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=CELLS
    )
)
def test_touching_is_what_a_loop_finds(cells: np.ndarray) -> None:
    found = touching(cells)
    for (y, x), cell in np.ndenumerate(cells):
        neighbours = [
            int(cells[v, u])
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
            if 0 <= v < cells.shape[0] and 0 <= u < cells.shape[1]
        ]
        meets = cell > 0 and any(n not in (0, cell) for n in neighbours)
        assert found[y, x] == meets


def test_an_unknown_meaning_lists_the_known() -> None:
    with pytest.raises(ValueError, match="membrane, inside, cells; got 'mask'"):
        inside_mask(drawn("01"), "mask")  # type: ignore[arg-type]
