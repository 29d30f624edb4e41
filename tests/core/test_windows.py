from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.padding import in_parts, reading
from napari_emseg.core.stack import Stack

VALUES = np.random.default_rng(0).integers(0, 255, (2, 5000, 300), dtype=np.uint8)


class Chunked:
    """Like a zarr array, which decodes all rows between the first and the last."""

    shape, dtype, chunks = VALUES.shape, VALUES.dtype, (1, 256, 256)

    def __init__(self) -> None:
        self.most = 0

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        rows = range(5000)[key[1]]
        self.most = max(self.most, rows[-1] + 1 - rows[0])
        return VALUES[key]


def test_every_nth_pixel_is_read_without_holding_all_rows() -> None:
    data = Chunked()
    stack = Stack(data)
    assert in_parts(stack, 1000)
    read = reading(stack, 1, most=1000)
    for some in (slice(None, None, 4), slice(7, 4999, 3), slice(20, 60)):
        part = some, slice(3, None, 5)
        np.testing.assert_array_equal(read(*part), VALUES[1][part])
    assert 20 < data.most <= 1024
