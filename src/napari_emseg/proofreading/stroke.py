"""Strokes: points of a pointer → pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage.draw import line

from napari_emseg.proofreading.area import Area, around, corner, shape_of
from napari_emseg.proofreading.section_view import SectionView

Points = NDArray[np.float64]
"""`(n, 2)`: y, x in px."""


def line_through(points: NDArray[Any]) -> NDArray[np.int64]:
    """Return the pixels `(n, 2)` of a polyline, 8-connected, in its order.

    Raises
    ------
    ValueError
        If there is no point.
    """
    points = np.atleast_2d(np.asarray(points, float))
    if points.size == 0:
        msg = "a stroke needs at least one point"
        raise ValueError(msg)
    whole = np.floor(points + 0.5).astype(np.int64)
    if len(whole) == 1:
        return whole
    parts = [np.stack(line(*a, *b), axis=1) for a, b in pairwise(whole)]
    pixels = np.concatenate(parts)
    # the end of one line is the beginning of the next
    fresh = np.append(True, (np.diff(pixels, axis=0) != 0).any(axis=1))
    path: NDArray[np.int64] = pixels[fresh].astype(np.int64)
    return path


def painted_along(
    sheet: SectionView, pixels: NDArray[np.int64], width: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Area]:
    """Return masks of a line's pixels, drawn `width` px wide, and of its middle.

    Returns
    -------
    wide, core
        Masks `(y, x)` of the area.
    area

    Raises
    ------
    ValueError
        If the line is outside of the picture.
    """
    area = around(pixels, width, sheet.shape)
    core = np.zeros(shape_of(area), bool)
    local = pixels - corner(area)
    kept = ((local >= 0) & (local < core.shape)).all(axis=1)
    core[tuple(local[kept].T)] = True
    if width == 1:
        return core, core, area
    wide = ndi.distance_transform_edt(~core) <= (width - 1) / 2 + 0.2
    return wide, core, area
