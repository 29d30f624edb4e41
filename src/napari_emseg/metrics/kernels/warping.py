"""The warping error's loops: flip simple points, then name those that are left."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.compiler import compiled

RADIUS = 20
"""Half the window, in px, in which a white pixel is tried as a cut."""

RING = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""The eight neighbours as (x, y), going round: edges are even, corners are odd."""

MERGER, SPLIT = 0, 1
HOLE_ADDITION, HOLE_DELETION = 2, 3
OBJECT_ADDITION, OBJECT_DELETION = 4, 5


@compiled
def surroundings(image: NDArray[np.bool_], pixel: int, step: int) -> int:
    """Eight neighbours as bits 0 … 7, in the order of `RING`."""
    bits: int = (
        image[pixel - step]
        | image[pixel - step + 1] << 1
        | image[pixel + 1] << 2
        | image[pixel + step + 1] << 3
        | image[pixel + step] << 4
        | image[pixel + step - 1] << 5
        | image[pixel - 1] << 6
        | image[pixel - step - 1] << 7
    )
    return bits


@compiled
def warp(
    image: NDArray[np.bool_],
    order: NDArray[np.int32],
    step: int,
    simple: NDArray[np.bool_],
) -> NDArray[np.int32]:
    """Flip each pixel of `order` that is simple in `image`, again until none is.

    Changes `image`; returns the pixels that could not be flipped, in order.
    """
    left = order.copy()
    n, before = left.size, -1
    # A flip can make a neighbour simple that wasn't, so those left are tried again.
    # They are compacted in place, in the same order: n never overtakes i.
    while n and n != before:
        before, n = n, 0
        for i in range(before):
            pixel = left[i]
            if simple[surroundings(image, pixel, step)]:
                image[pixel] = not image[pixel]
            else:
                left[n] = pixel
                n += 1
    return left[:n]


@compiled
def cuts(
    image: NDArray[np.bool_],
    pixel: int,
    step: int,
    reached: NDArray[np.int32],
    queue: NDArray[np.int32],
    mark: int,
) -> bool:
    """Whether the inside around `pixel` falls apart, in its window, without it.

    Floods from one inside neighbour, nearest first, within the window and not through
    `pixel`, until every other inside neighbour is reached. `reached` keeps `mark` where
    the flood went; `queue` is room for a window's offset, x and y, `(3, pixels)`.
    """
    around = surroundings(image, pixel, step)
    # a run of inside pixels round the ring ends where the next one is outside; with a
    # single run no path through `pixel` is the only one
    groups, inside = 0, 0
    for k in range(8):
        if around >> k & 1:
            inside += 1
            groups += not around >> ((k + 1) % 8) & 1
    if groups < 2:
        return False
    reached[pixel] = mark
    end = 0
    for dx, dy in (
        (-1, 0),
        (-1, 1),
        (0, 1),
        (1, 1),
        (1, 0),
        (1, -1),
        (0, -1),
        (-1, -1),
    ):
        other = pixel + dx * step + dy
        if image[other]:
            queue[0, 0], queue[1, 0], queue[2, 0] = other, dx, dy
            reached[other] = mark
            end = 1
            break
    # of the neighbours that are inside one is where the flood began
    begin, missing = 0, inside - 1
    while begin < end and missing:
        here, x, y = queue[0, begin], queue[1, begin], queue[2, begin]
        begin += 1
        for dx, dy in ((-1, 0), (0, -1), (1, 0), (0, 1)):
            other = here + dx * step + dy
            if not image[other] or reached[other] == mark:
                continue
            reach = max(abs(x + dx), abs(y + dy))
            if reach <= RADIUS:
                reached[other] = mark
                # the ring's own pixels, of which `missing` counts those not reached
                missing -= reach == 1
                queue[0, end], queue[1, end], queue[2, end] = other, x + dx, y + dy
                end += 1
    return missing > 0


@compiled
def ids_around(
    labels: NDArray[np.int32], real: NDArray[np.bool_], pixel: int, step: int
) -> tuple[int, int]:
    """How many different ids the real neighbours have, and the largest of them."""
    seen = np.zeros(8, np.int32)
    n, largest = 0, 0
    for dx, dy in RING:
        other = pixel + dx * step + dy
        if real[other]:
            largest = max(largest, labels[other])
            known = False
            for k in range(n):
                known = known or seen[k] == labels[other]
            if not known:
                seen[n] = labels[other]
                n += 1
    return n, largest


@compiled
def classify(
    image: NDArray[np.bool_],
    labels: NDArray[np.int32],
    real: NDArray[np.bool_],
    left: NDArray[np.int32],
    step: int,
) -> NDArray[np.int8]:
    """Name each mismatch of `left` by what a flip would do to the objects around it.

    `labels` are the 4-components of `image`; `real` is False outside the section, whose
    pixels have no say. Returns `MERGER` … `OBJECT_DELETION` for each.
    """
    kinds = np.empty(left.size, np.int8)
    reached = np.zeros(image.size, np.int32)
    queue = np.empty((3, (2 * RADIUS + 1) ** 2), np.int32)
    for i in range(left.size):
        white = image[left[i]]
        # membrane, id 0, counts as one of the n; `largest` 0
        # means that there is nothing else
        n, largest = ids_around(labels, real, left[i], step)
        if n > 2:
            kinds[i] = SPLIT if white else MERGER
        elif n == 2 and not white:
            kinds[i] = HOLE_ADDITION
        elif n == 2:
            # a mark of its own for each pixel spares clearing `reached` between floods
            cut = cuts(image, left[i], step, reached, queue, i + 1)
            kinds[i] = SPLIT if cut else HOLE_DELETION
        elif largest:
            kinds[i] = HOLE_ADDITION if white else HOLE_DELETION
        else:
            kinds[i] = OBJECT_DELETION if white else OBJECT_ADDITION
    return kinds


T = TypeVar("T", bound=np.generic)


def pad(section: NDArray[T]) -> NDArray[T]:
    """Transpose `(Y, X)`, add a border of zeros and flatten: `((X + 2) * (Y + 2),)`."""
    y, x = section.shape
    flat = np.zeros((x + 2, y + 2), section.dtype)
    flat[1:-1, 1:-1] = section.T
    return flat.ravel()


def unpad(flat: NDArray[T], shape: tuple[int, int]) -> NDArray[T]:
    """Undo `pad` for a section of `shape` `(Y, X)`."""
    y, x = shape
    return np.ascontiguousarray(flat.reshape(x + 2, y + 2)[1:-1, 1:-1].T)


def column(shape: tuple[int, int]) -> int:
    """Distance in the flat form between horizontal neighbours of a section."""
    return shape[0] + 2
