from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage as ndi

from napari_emseg.core.stack import Stack
from napari_emseg.sample import synthetic

Known = tuple[Stack, np.ndarray]


def test_a_seed_gives_one_stack() -> None:
    (a, cells_a), (b, cells_b) = synthetic(seed=7), synthetic(seed=7)
    other, _ = synthetic(seed=8)
    np.testing.assert_array_equal(a.data, b.data)
    np.testing.assert_array_equal(cells_a, cells_b)
    assert (np.asarray(other.data) != np.asarray(a.data)).any()


def test_types_shape_and_voxel_size() -> None:
    stack, cells = synthetic((2, 50, 70), voxel_size_nm=(30.0, 5.0, 5.0))
    assert stack.shape == cells.shape == (2, 50, 70)
    assert stack.dtype == np.uint8
    assert cells.dtype == np.uint32
    assert stack.voxel_size_nm == (30.0, 5.0, 5.0)


def test_membranes_are_dark(drawn_stack: Known) -> None:
    stack, cells = drawn_stack
    grey = np.asarray(stack.data)
    assert 0.1 < (cells == 0).mean() < 0.5
    assert grey[cells == 0].mean() + 60 < grey[cells > 0].mean()


def test_each_cell_is_one_piece_and_none_touch(drawn_stack: Known) -> None:
    _, cells = drawn_stack
    for section in cells:
        _, pieces = ndi.label(section > 0)
        assert pieces == len(np.unique(section[section > 0]))


def test_cells_keep_their_ids_and_drift(drawn_stack: Known) -> None:
    _, cells = drawn_stack
    for above, below in pairwise(cells):
        both = (above > 0) & (below > 0)
        assert (above[both] == below[both]).mean() > 0.9
        assert (above != below).any()


def test_walls_must_leave_room_for_cells() -> None:
    with pytest.raises(ValueError, match="cell_size must be above membrane_width"):
        synthetic(cell_size=4, membrane_width=5)
