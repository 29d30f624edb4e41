"""Two neighbouring sections → how much their cells overlap, also if one is shifted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter

Shift = tuple[int, int]
"""By how many rows and columns a section is moved to lie on another."""

BIN = 2
"""Shifts are looked for on a grid of so many pixels."""

GAIN = 1.05
"""A shift is believed if cells overlap more by this factor than without."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """The pairs of cells that share pixels.

    Parameters
    ----------
    before, after
        `(k,)` cells of the one and the other section.
    shared
        `(k,)` pixels in both.
    shift
        By which the other section was moved.
    """

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    shared: NDArray[np.int64]
    shift: Shift = (0, 0)

    @property
    def held(self) -> int:
        """Pixels that lie in the cell that most of their cell lies in."""
        best = np.zeros(int(self.after.max(initial=0)) + 1, np.int64)
        np.maximum.at(best, self.after, self.shared)
        return int(best.sum())


def overlap_of(
    before: NDArray[np.uint32], after: NDArray[np.uint32], shift: Shift = (0, 0)
) -> Overlap:
    """Count the pixels that cells `(y, x)` share, 0 left out; ids start at 1."""
    one, other = _common(before, after, shift)
    n = int(after.max()) + 1
    key = one.astype(np.int64) * n + other
    # a full table of all pairs saves sorting, where it takes no more memory than four
    # numbers a pixel
    if (int(before.max()) + 1) * n <= 4 * key.size:
        counts = np.bincount(key.ravel())
        pairs = np.flatnonzero(counts)
        counts = counts[pairs]
    else:
        pairs, counts = np.unique(key, return_counts=True)
    a, b = np.divmod(pairs, n)
    cells = (a > 0) & (b > 0)
    return Overlap(a[cells], b[cells], counts[cells], shift)


def best_overlap(
    before: NDArray[np.uint32], after: NDArray[np.uint32], largest_shift: int
) -> Overlap:
    """Count shared pixels as sections lie, or shifted if cells then overlap more.

    The shift, of at most so many pixels along y and x, is where the places inside cells
    correlate best by phase.
    """
    still = overlap_of(before, after)
    one, other = (binned(cells > 0) for cells in (before, after))
    shift = find_shift(one, other, largest_shift, BIN)
    if shift == (0, 0):
        return still
    moved = overlap_of(before, after, shift)
    return moved if moved.held > GAIN * still.held else still


def _common(
    before: NDArray[np.uint32], after: NDArray[np.uint32], shift: Shift
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the parts that lie on each other when the second is moved."""
    here = tuple(
        slice(max(0, d), n + min(0, d))
        for d, n in zip(shift, before.shape, strict=True)
    )
    there = tuple(
        slice(max(0, -d), n + min(0, -d))
        for d, n in zip(shift, before.shape, strict=True)
    )
    return before[here], after[there]


def find_shift(
    before: NDArray[np.float32], after: NDArray[np.float32], largest: int, step: int
) -> Shift:
    """Return where two pictures correlate best by phase, in multiples of `step`.

    Parameters
    ----------
    before, after
        `(y, x)` of squares of `step` px, see `binned`.
    largest
        Shift along y and x, px.
    """
    reach = min(largest // step, *(n // 2 for n in before.shape))
    if reach == 0:
        return (0, 0)
    # Phase correlation (Kuglin and Hines 1975): the spectrum is divided by its size, so
    # all frequencies count alike and the peak is sharp, however large the cells are.
    one, other = (fft.rfft2(share - share.mean()) for share in (before, after))
    product = one * np.conj(other)
    size = np.abs(product)
    product /= size + 1e-9 * size.max() + np.finfo(np.float32).tiny
    # The peak of a shift between grid points is spread over several: smoothing collects
    # it. The transform is periodic, so negative shifts lie at the far end.
    peaks = gaussian_filter(fft.irfft2(product, before.shape), 1.0, mode="wrap")
    steps = np.r_[0 : reach + 1, -reach:0]
    near = peaks[np.ix_(steps, steps)]
    y, x = np.unravel_index(int(near.argmax()), near.shape)
    return int(steps[y]) * step, int(steps[x]) * step


def binned(mask: NDArray[np.bool_], step: int = BIN) -> NDArray[np.float32]:
    """Return the mean of squares of `step` px."""
    height, width = (n // step for n in mask.shape)
    square = mask[: height * step, : width * step].reshape(height, step, width, step)
    share: NDArray[np.float32] = square.mean((1, 3), dtype=np.float32)
    return share
