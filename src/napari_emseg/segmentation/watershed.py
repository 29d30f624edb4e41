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

CLOSED = 2**32 - 1
"""Where no marker grows; no marker has this number."""


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
    # Closed all round: no pixel that is reached lies at an end, so neighbours are found
    # by adding to its place, without a division for each pixel.
    out = np.pad(markers, 1, constant_values=CLOSED)
    inner = out[(slice(1, -1),) * out.ndim]
    inner[closed] = CLOSED
    steps = [stride // out.itemsize for stride in out.strides]
    around = np.array([-step for step in steps] + steps[::-1])
    _flood(np.pad(levels, 1).ravel(), out.ravel(), around)
    return np.where(closed, np.uint32(0), inner)


@compiled
def _flood(
    level: NDArray[np.uint16],
    out: NDArray[np.uint32],
    steps: NDArray[np.int64],
) -> None:
    """Fill `out`, which holds the markers; `steps` lead to the neighbours, in order."""
    # A queue for each level, as a linked list: first and last pixel, -1 if empty. A
    # pixel is queued once in its life, so one array `following` serves all queues.
    first = np.full(LEVELS, -1, np.int32)
    last = np.full(LEVELS, -1, np.int32)
    following = np.full(out.size, -1, np.int32)
    # row by row, so that the markers of a window begin in the order that they have in
    # the whole
    for pixel in range(out.size):
        if 0 < out[pixel] < CLOSED:
            _append(first, last, following, int(level[pixel]), pixel)
    for now in range(LEVELS):
        while first[now] >= 0:
            pixel = first[now]
            first[now] = following[pixel]
            for step in steps:
                beside = pixel + step
                if out[beside]:
                    continue
                # labelled when it is reached, not when it is taken out: the first to
                # reach a pixel has it, and no pixel is queued twice
                out[beside] = out[pixel]
                # a basin behind a ridge is filled at the height of the ridge: levels
                # below `now` are done with and must not be filled again
                at = max(now, int(level[beside]))
                _append(first, last, following, at, beside)


@compiled
def _append(
    first: NDArray[np.int32],
    last: NDArray[np.int32],
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
