"""Alignment padding of a section, found without ever holding all of the section.

Padding is a constant area of the lowest or highest value of the dtype (0 or 255 for
uint8; 0 for float) that touches the border of the picture. What begins at the border is
followed inwards block by block, and blocks that it doesn't reach aren't looked at.
"""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.stack import Stack

Read = Callable[[slice, slice], NDArray[Any]]
"""Reads rows and columns of a section `(y, x)`; of every n-th, too."""

HUGE_PIXELS = 8192 * 8192
"""Sections beyond this are read window by window where the array allows it."""

STRIP = 1024
"""Rows of which every n-th is taken at once: arrays may decode all that lie between."""


def reading(stack: Stack, z: int, *, most: int = HUGE_PIXELS) -> Read:
    """Return what reads section `z`.

    Parameters
    ----------
    most
        A section of more pixels isn't read as a whole if parts of it can be.

    Raises
    ------
    OSError, ValueError
        From the reader, when the section is read at once and is damaged.
    """
    if in_parts(stack, most):
        return lambda rows, columns: _part(stack, z, rows, columns)
    values = stack.section(z)
    return lambda rows, columns: values[rows, columns]


def in_parts(stack: Stack, most: int = HUGE_PIXELS) -> bool:
    """Tell if sections have more pixels and a part can be read without the rest."""
    pixels = stack.shape[1] * stack.shape[2]
    if pixels <= most:
        return False
    # views, and memory maps are arrays, too: a part costs nothing
    if isinstance(stack.data, np.ndarray):
        return True
    chunks = getattr(stack.data, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != 3:
        return False
    # dask has a tuple of lengths for each axis, zarr and h5py one length
    y, x = (max(c) if isinstance(c, tuple) else int(c) for c in chunks[1:])
    return bool(y * x <= HUGE_PIXELS and y * x < pixels)


def _part(stack: Stack, z: int, rows: slice, columns: slice) -> NDArray[Any]:
    lines = range(stack.shape[1])[rows]
    if lines.step == 1:
        return np.asarray(stack.data[z, rows, columns])
    # bands of about `STRIP` source rows, whatever the step
    deep = max(1, STRIP // lines.step)
    strips = [lines[first : first + deep] for first in range(0, len(lines), deep)]
    return np.concatenate(
        [
            np.asarray(stack.data[z, strip.start : strip.stop : strip.step, columns])
            for strip in strips
        ]
    )


Pixels = NDArray[np.int64]
"""`(k, 2)` rows and columns."""

WIDTH = 7
"""A constant area must hold a square this wide: saturated pixels don't count. At the
border part of the square may lie outside, but the area is at least as large as it."""

BAND = WIDTH * WIDTH + 1
"""Rows along the border that tell where padding begins: what is smaller than the square
can't leave them."""

BLOCK = 1024
"""Side of what is looked at in one go, px."""


class Padding:
    """Mask `(y, x)` of padding: a bit for each pixel of blocks that have any.

    Parameters
    ----------
    shape
        `(y, x)` of the section.
    side
        Of blocks.
    """

    def __init__(self, shape: tuple[int, int], side: int) -> None:
        self.shape = shape
        self.side = side
        # row and column of a block → its mask packed to bits; none without padding
        self._blocks: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def area(self, at: tuple[int, int]) -> tuple[slice, slice]:
        """Return rows and columns of the block in row and column `at` of blocks."""
        y, x = (
            slice(k * self.side, min((k + 1) * self.side, n))
            for k, n in zip(at, self.shape, strict=True)
        )
        return y, x

    def block(self, at: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask of a block."""
        y, x = (part.stop - part.start for part in self.area(at))
        if at not in self._blocks:
            return np.zeros((y, x), bool)
        return np.unpackbits(self._blocks[at], count=y * x).reshape(y, x).view(bool)

    def add(self, at: tuple[int, int], mask: NDArray[np.bool_]) -> None:
        """Add to the mask of a block."""
        self._blocks[at] = np.packbits(self.block(at) | mask)

    def mask(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Return the mask of some rows and columns; of every n-th, too."""
        y, x = (range(n)[p] for n, p in zip(self.shape, (rows, columns), strict=True))
        out = np.zeros((len(y), len(x)), bool)
        for at in self._blocks:
            down, across = self.area(at)
            (to_rows, from_rows), (to_columns, from_columns) = (
                _both(down, y),
                _both(across, x),
            )
            out[to_rows, to_columns] = self.block(at)[from_rows, from_columns]
        return out


def find_padding(
    read: Read, shape: tuple[int, int], dtype: np.dtype[Any], *, side: int = BLOCK
) -> Padding | None:
    """Find the padding of a section of `(y, x)` px; None where there is none.

    Parameters
    ----------
    side
        Of the blocks that are looked at in one go; the result is the same for all.
    """
    found = Padding(shape, side)
    bands = list(_bands(read, shape))
    for value in _values(dtype):
        # the usual case is none; looking for areas takes a hundred times longer
        if any(_has_run(band[0] == value) for band, _ in bands):
            width = min(WIDTH, *shape)
            begin = [border[_broad(band == value, width)] for band, border in bands]
            _follow(read, value, np.concatenate(begin), found)
    return found or None


def _values(dtype: np.dtype[Any]) -> tuple[float, ...]:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        # padding of signed images may be 0 as well, though it isn't their lowest value
        return tuple({info.min, 0, info.max})
    return (0.0,) if dtype.kind == "f" else ()


def _bands(read: Read, shape: tuple[int, int]) -> Iterator[tuple[NDArray[Any], Pixels]]:
    """Yield the section along each side, its border first, and the border's pixels."""
    for axis, last in product((0, 1), (False, True)):
        deep, long = shape[axis], shape[1 - axis]
        near = slice(max(0, deep - BAND), deep) if last else slice(0, min(BAND, deep))
        parts = []
        for start in range(0, long, BLOCK):  # rows may be stored in one piece
            along = slice(start, min(start + BLOCK, long))
            parts.append(read(near, along) if axis == 0 else read(along, near).T)
        band = np.concatenate(parts, axis=1)
        border = np.full((long, 2), deep - 1 if last else 0)
        border[:, 1 - axis] = np.arange(long)
        yield band[::-1] if last else band, border


def _has_run(line: NDArray[np.bool_]) -> bool:
    """Tell if so many neighbours are True as padding must be wide."""
    side = min(WIDTH, len(line))
    return bool(sliding_window_view(line, side).all(axis=1).any())


def _broad(same: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Tell where along its first row an area is so broad, and as large as a square."""
    # repeated beyond the border, where a part of the square may lie
    wide = np.pad(same, width, mode="edge").view(np.uint8)
    eroded = ndi.minimum_filter(wide, width)
    # the opening of an even square needs its second half mirrored
    opened = ndi.maximum_filter(eroded, width, origin=width % 2 - 1)
    parts, n = ndi.label(same)
    # a run along the border that is repeated outside would pass as a square by itself
    large = np.bincount(parts.ravel(), minlength=n + 1) >= width * width
    broad = opened[width, width:-width].view(bool) & large[parts[0]]
    return np.asarray(broad, bool)


def _follow(read: Read, value: float, begin: Pixels, found: Padding) -> None:
    """Add the 4-connected areas of a value that hold any of some pixels."""
    waiting: dict[tuple[int, int], list[Pixels]] = {}
    _by_block(waiting, begin, found.side)
    # A flood fill by blocks: `waiting` has the pixels at which areas enter a block. A
    # block sends on to its neighbours only what is new, so this ends.
    while waiting:
        at = next(iter(waiting))
        pixels = np.concatenate(waiting.pop(at))
        rows, columns = found.area(at)
        parts, n = ndi.label(read(rows, columns) == value)
        reached = np.zeros(n + 1, bool)
        reached[parts[tuple((pixels - (rows.start, columns.start)).T)]] = True
        reached[0] = False
        new = reached[parts] & ~found.block(at)
        if new.any():
            found.add(at, new)
            _by_block(waiting, _beyond(new, rows, columns, found.shape), found.side)


def _by_block(
    waiting: dict[tuple[int, int], list[Pixels]], pixels: Pixels, side: int
) -> None:
    blocks, which = np.unique(pixels // side, axis=0, return_inverse=True)
    for k, (y, x) in enumerate(blocks.tolist()):
        waiting.setdefault((y, x), []).append(pixels[which.ravel() == k])


def _beyond(
    mask: NDArray[np.bool_], rows: slice, columns: slice, shape: tuple[int, int]
) -> Pixels:
    """Return the pixels outside of a block that touch its mask."""
    y, x = (np.arange(part.start, part.stop) for part in (rows, columns))
    sides = (
        (np.full_like(x, rows.start - 1), x, mask[0]),
        (np.full_like(x, rows.stop), x, mask[-1]),
        (y, np.full_like(y, columns.start - 1), mask[:, 0]),
        (y, np.full_like(y, columns.stop), mask[:, -1]),
    )
    pixels = np.concatenate([np.stack([r[m], c[m]], axis=1) for r, c, m in sides])
    inside = np.all((pixels >= 0) & (pixels < shape), axis=1)
    return pixels[inside]


def _both(block: slice, wanted: range) -> tuple[slice, slice]:
    """Return which of the wanted lines lie in a block, and which of the block's."""
    first, stop = (
        # the first k with wanted.start + k * wanted.step >= at: a division rounded up
        min(len(wanted), max(0, -((wanted.start - at) // wanted.step)))
        for at in (block.start, block.stop)
    )
    lines = wanted[first:stop]
    start = lines.start - block.start if len(lines) else 0
    end = start + (len(lines) - 1) * wanted.step + 1 if len(lines) else 0
    return slice(first, stop), slice(start, end, wanted.step)
