from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_emseg.core.regions import Region
from napari_emseg.training.sparse_labels import BLOCK, SparseLabels

SHAPE = (3, 150, 90)


@st.composite
def regions(draw: st.DrawFn, shape: tuple[int, int, int] = SHAPE) -> Region:
    z = draw(st.integers(0, shape[0] - 1))
    top = draw(st.integers(0, shape[1] - 1))
    left = draw(st.integers(0, shape[2] - 1))
    bottom = draw(st.integers(top + 1, shape[1]))
    right = draw(st.integers(left + 1, shape[2]))
    return Region(z, top, left, bottom, right)


@given(st.lists(st.tuples(regions(), st.integers(0, 3)), max_size=4), regions())
def test_says_what_an_array_would(
    strokes: list[tuple[Region, int]], window: Region
) -> None:
    opinions, dense = SparseLabels(SHAPE), np.zeros(SHAPE, np.uint8)
    for region, code in strokes:
        opinions.put(region, np.full(region.shape, code, np.uint8))
        if code:
            dense[region.z, *region.area] = code
    found = opinions.window(window)
    np.testing.assert_array_equal(found, dense[window.z, *window.area])
    assert opinions.pixels == np.count_nonzero(dense)
    assert opinions.largest == dense.max()
    read = SparseLabels.read(dense)
    assert read.fingerprint == opinions.fingerprint
    dense[window.z, *window.area] = 0
    assert (
        opinions.without([window]).fingerprint == SparseLabels.read(dense).fingerprint
    )
    assert opinions.fingerprint == read.fingerprint, "a copy is changed, not itself"


def test_memory_follows_what_is_known() -> None:
    codes = np.zeros((40, 1000, 1000), np.uint8)
    codes[7, 500:520, 300:400] = 1
    opinions = SparseLabels.read(codes)
    assert opinions.pixels == 2000
    assert opinions.nbytes <= 6 * BLOCK**2 < codes.nbytes / 1000


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (np.zeros((4, 4), np.uint8), r"must be \(z, y, x\), got shape \(4, 4\)"),
        (np.full((1, 4, 4), 0.5), "whole numbers, not float64"),
        (np.full((1, 4, 4), 300), "got 300 to 300"),
    ],
)
def test_what_are_no_codes_is_refused(codes: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SparseLabels.read(codes)
