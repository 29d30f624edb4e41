from __future__ import annotations

import numpy as np
from PIL import Image

from napari_emseg.cli.demo import outlines, save_picture


def test_outlines_are_the_rims_of_cells():
    cells = np.zeros((6, 7), np.uint32)
    cells[1:5, 1:5] = 3
    cells[1:5, 5:] = 8
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 1, 1, 1],
            [0, 1, 0, 0, 1, 1, 0],
            [0, 1, 0, 0, 1, 1, 0],
            [0, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 0, 0],
        ],
        bool,
    )
    np.testing.assert_array_equal(outlines(cells), expected)


def test_three_panels_side_by_side(tmp_path):
    grey = np.full((40, 50), 100, np.uint8)
    membrane = np.full((40, 50), 0.5, np.float32)
    cells = np.zeros((40, 50), np.uint32)
    cells[5:20, 5:20] = 1
    path = tmp_path / "a.png"
    save_picture(path, grey=grey, membrane=membrane, cells=cells, credit="by me")

    picture = np.asarray(Image.open(path))
    assert picture.shape == (40 + 2 * 26, 3 * 50 + 2 * 6, 3)
    assert (picture[26:66, :50] == 100).all()
    assert (picture[26:66, 56:106] == 128).all()
    third = picture[26:66, 112:]
    assert (third[30, 30] == 100).all()  # no cell: the EM as it is
    assert len(set(third[10, 10].tolist())) > 1  # a cell has a colour
