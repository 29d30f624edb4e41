"""Regions that touch → cells with membranes between them."""

from __future__ import annotations

import numpy as np
from bioimage_cpp.distance import distance_transform
from numpy.typing import NDArray


def walled(
    regions: NDArray[np.uint32],
    membrane: NDArray[np.float32],
    *,
    inside: NDArray[np.bool_],
    grow: int,
) -> NDArray[np.uint32]:
    """Make regions `(y, x)` that touch into cells with membrane, 0, between them.

    A cell is its region's pixels inside, and those up to `grow` px away. Where two
    cells would touch by an edge, the pixel more like membrane becomes 0.
    """
    cells = regions.copy()
    if grow == 0:
        cells[~inside] = 0
    else:
        cells[distance_transform(~inside) > grow] = 0
    cells[_meeting(regions, membrane)] = 0
    return cells


def _meeting(
    regions: NDArray[np.uint32], membrane: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Of each two 4-neighbours in different regions, the pixel of more membrane."""
    found = np.zeros(regions.shape, bool)
    for axis in (0, 1):
        label, value, out = (
            np.moveaxis(a, axis, 0) for a in (regions, membrane, found)
        )
        differ = label[:-1] != label[1:]
        differ &= (label[:-1] > 0) & (label[1:] > 0)
        first = value[:-1] > value[1:]
        out[:-1] |= differ & first
        out[1:] |= differ & ~first
    return found
