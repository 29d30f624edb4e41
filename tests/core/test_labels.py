from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_emseg.core.labels import (
    Meaning,
    Numbering,
    as_labels,
    format_sections,
    inside_mask,
    is_drawn,
    touching,
    unlabelled,
)

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


NO_LABEL = [
    (np.uint64, 2**64 - 1),
    (np.uint64, 2**64 - 3),
    (np.uint32, 2**32 - 1),
    (np.int8, -1),
    (np.int64, -(2**63)),
    (np.float16, np.nan),
    (np.float32, np.inf),
    (np.float64, -0.5),
    (np.float64, 2.0**64),
]


@pytest.mark.parametrize("meaning", ["membrane", "inside", "cells"])
@pytest.mark.parametrize(("kind", "value"), NO_LABEL)
def test_what_means_no_label_is_neither_membrane_nor_inside(
    meaning: Meaning, kind: type, value: float
) -> None:
    labels = np.array([[0, 5, 0]]).astype(kind)
    labels[0, 2] = kind(value)
    found = unlabelled(labels, meaning)
    np.testing.assert_array_equal(found, [[False, False, True]])
    assert as_labels(labels, meaning).tolist() == [[0, 5, 0]]
    assert not inside_mask(labels, meaning)[0, 2]
    assert not is_drawn(labels[:, 2:], meaning)


@pytest.mark.parametrize(
    ("kind", "value", "meaning"),
    [
        (np.uint64, 2**64 - 4, "cells"),
        (np.uint32, 2**32 - 2, "cells"),
        (np.uint16, 2**16 - 1, "membrane"),
        (np.uint16, 2**16 - 1, "inside"),
        (np.uint8, 255, "cells"),
        (np.int64, 2**63 - 1, "cells"),
        (np.bool_, True, "inside"),
        (np.float32, 1.0, "inside"),
    ],
)
def test_all_else_is_a_label(kind: type, value: float, meaning: Meaning) -> None:
    labels = np.zeros((1, 2), kind)
    labels[0, 1] = kind(value)
    assert unlabelled(labels, meaning) is None
    assert is_drawn(labels, meaning)


def test_the_largest_16_bit_id_is_no_cell() -> None:
    assert unlabelled(np.array([0, 65535], np.uint16), "cells").tolist() == [0, 1]


def test_a_cell_that_meets_what_has_no_label_gets_no_membrane() -> None:
    labels = np.array([[1, 1, -1, -1, 2, 2]])
    wanted = [[True, True, False, False, True, True]]
    assert inside_mask(labels, "cells").tolist() == wanted


def test_ids_as_floats_are_ids_and_fractions_are_none() -> None:
    assert as_labels(np.array([0.0, 7.0]), "cells").dtype == np.int64
    with pytest.raises(ValueError, match=r"whole numbers, got 1.5; is it a mask\?"):
        as_labels(np.array([0.0, 1.5]), "cells")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ([4], "section 4"),
        ([3, 1, 2], "sections 1-3"),
        ([0, 1, 2, 7, 9], "sections 0-2, 7, 9"),
    ],
)
def test_sections_are_named_by_their_runs(sections: list[int], words: str) -> None:
    assert format_sections(sections) == words


def test_ids_keep_their_numbers_through_a_stack() -> None:
    number = Numbering()
    assert number(np.array([[0, 2**40, 7]])).tolist() == [[0, 2, 1]]
    assert number(np.array([[7, 9, 0]])).tolist() == [[1, 3, 0]]
    huge = np.array([[2**64 - 9, 2**63]], np.uint64)
    assert number(huge).tolist() == [[5, 4]]
