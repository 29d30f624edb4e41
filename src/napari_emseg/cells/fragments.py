"""Membrane probabilities → fragments: a watershed that leaves no pixel over."""

from __future__ import annotations

import numpy as np
from bioimage_cpp.filters import gaussian_smoothing
from bioimage_cpp.segmentation import label, relabel_sequential, watershed
from numpy.typing import NDArray

RIDGE_SIGMA = 1.0
"""Fragments meet on the ridge of probabilities smoothed by this much, px."""


def seeds(depth: NDArray[np.float32], gap: int) -> NDArray[np.uint32]:
    """Return one seed for each place `(y, x)` that gaps don't connect to another.

    Parameters
    ----------
    depth
        Distance to the nearest membrane `(y, x)`, px; 0 on membranes.
    gap
        Places that are connected by gaps of at most this width only, in px, get seeds
        of their own. Places too narrow for that are one seed for each 4-connected area.
    """
    # the middle of a gap of w px is (w + 1) // 2 px from the nearest membrane
    found = label(depth > (gap + 1) / 2, connectivity=1)
    areas = label(depth > 0, connectivity=1)
    seeded = np.zeros(int(areas.max()) + 1, bool)
    seeded[areas[found > 0]] = True
    narrow = (areas > 0) & ~seeded[areas]
    found[narrow] = areas[narrow] + found.max()
    markers: NDArray[np.uint32] = relabel_sequential(found)[0].astype(np.uint32)
    return markers


def flood(
    membrane: NDArray[np.float32],
    markers: NDArray[np.uint32],
    exclude: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint32]:
    """Grow markers `(y, x)` over the whole section until they meet on membranes.

    Fragments are 0 where `exclude` is true, and all 0 without markers.
    """
    if not markers.any():
        return np.zeros(membrane.shape, np.uint32)
    ridges = gaussian_smoothing(membrane, RIDGE_SIGMA)
    mask = None if exclude is None else ~exclude
    fragments: NDArray[np.uint32] = watershed(ridges, markers, mask=mask)
    return fragments
