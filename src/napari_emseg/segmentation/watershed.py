"""Markers grow over a picture of heights until they meet: a watershed without chance.

Pixels are taken level by level, those of one level in the order in which they were
reached (Meyer 1991). So a pixel depends only on what lies between it and the markers
around, and a part of a picture can be flooded by itself: see `blocks`. Loaded on first
use, since compiling and numba itself take a second.
"""

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.compiler import compiled

LEVELS = 2**16


def quantise(heights: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return heights `(y, x)` from 0 to 1 in steps, the same for every picture."""
    levels: NDArray[np.uint16] = np.rint(heights * np.float32(LEVELS - 1)).astype(
        np.uint16
    )
    return levels


def seeded_watershed(
    levels: NDArray[np.uint16], markers: NDArray[np.uint32], closed: NDArray[np.bool_]
) -> NDArray[np.uint32]:
    """Grow markers `(y, x)` or `(z, y, x)` over what isn't closed, 0 where none can."""
    shape = levels.shape
    if levels.ndim == 2:
        levels, markers, closed = levels[None], markers[None], closed[None]
    found: NDArray[np.uint32] = _flooded(
        np.ascontiguousarray(levels),
        np.ascontiguousarray(markers),
        np.ascontiguousarray(closed),
    )
    return found.reshape(shape)


@compiled
def _flooded(
    levels: NDArray[np.uint16], markers: NDArray[np.uint32], closed: NDArray[np.bool_]
) -> NDArray[np.uint32]:
    depth, height, width = levels.shape
    plane = height * width
    level = levels.ravel()
    out = markers.copy().ravel()
    shut = closed.ravel()
    # A queue for each level, as a linked list: first and last pixel, -1 if empty. A
    # pixel is queued once in its life, so one array `following` serves all queues.
    first = np.full(LEVELS, -1, np.int64)
    last = np.full(LEVELS, -1, np.int64)
    following = np.full(out.size, -1, np.int32)
    for pixel in range(out.size):
        if shut[pixel]:
            out[pixel] = 0
    # row by row, so that the markers of a window begin in the order that they have in
    # the whole
    for pixel in range(out.size):
        if out[pixel]:
            _append(first, last, following, int(level[pixel]), pixel)
    for now in range(LEVELS):
        while first[now] >= 0:
            pixel = first[now]
            first[now] = following[pixel]
            z, rest = pixel // plane, pixel % plane
            y, x = rest // width, rest % width
            for side in range(6):
                if side == 0 and z > 0:
                    beside = pixel - plane
                elif side == 1 and y > 0:
                    beside = pixel - width
                elif side == 2 and x > 0:
                    beside = pixel - 1
                elif side == 3 and x < width - 1:
                    beside = pixel + 1
                elif side == 4 and y < height - 1:
                    beside = pixel + width
                elif side == 5 and z < depth - 1:
                    beside = pixel + plane
                else:
                    continue
                if out[beside] or shut[beside]:
                    continue
                # labelled when it is reached, not when it is taken out: the first to
                # reach a pixel has it, and no pixel is queued twice
                out[beside] = out[pixel]
                # a basin behind a ridge is filled at the height of the ridge: levels
                # below `now` are done with and must not be filled again
                at = max(now, int(level[beside]))
                _append(first, last, following, at, beside)
    return out.reshape(levels.shape)


@compiled
def _append(
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    following: NDArray[np.int32],
    at: int,
    pixel: int,
) -> None:
    following[pixel] = -1
    if first[at] < 0:
        first[at] = pixel
    else:
        following[last[at]] = pixel
    last[at] = pixel
