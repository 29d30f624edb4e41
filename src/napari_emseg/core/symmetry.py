"""The eight mirrors and rotations of a square grid, and the mean over them.

Ronneberger 2015 averages seven rotations of the input; the eight symmetries need no
interpolation, so that nothing is lost by turning there and back.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

SYMMETRIES = tuple(product(range(4), (False, True)))
"""Quarter turns, and whether the picture is mirrored after them."""


MIRRORED = SYMMETRIES[:2]
"""The picture as it is, and its mirror image."""

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def iter_symmetries(
    run: Run,
    windows: NDArray[np.float32],
    symmetries: Iterable[tuple[int, bool]] = SYMMETRIES,
) -> Iterator[NDArray[np.float32]]:
    """Yield what `run` says of `windows` `(…, y, x)`, turned each way and back again.

    `run` may cut the border of a window, as much on each side.
    """
    for turns, mirrored in symmetries:
        yield _back(run(_there(windows, turns, mirrored)), turns, mirrored)


Offset = tuple[int, int, int]
"""Steps `(z, y, x)` from a voxel to another one."""


def mean_over_symmetries(
    run: Run, windows: NDArray[np.float32], offsets: Sequence[Offset] = ()
) -> NDArray[np.float32]:
    """Return the mean of what `run` says, see `iter_symmetries`.

    Parameters
    ----------
    offsets
        Of the last channels, which are of pairs of voxels. Turning a picture turns
        them, too: what is said of one comes from the channel that leads that way in
        the turned picture, and only from pictures in which there is one.
    """
    found = iter_symmetries(run, windows)
    total = np.array(next(found))
    if not offsets:
        for each in found:
            total += each
        total *= np.float32(1 / len(SYMMETRIES))
        return total
    first = total.shape[1] - len(offsets)
    counts = np.ones(total.shape[1], np.float32)
    for (turns, mirrored), each in zip(SYMMETRIES[1:], found, strict=True):
        turned = [turn_offset(offset, turns, mirrored) for offset in offsets]
        pairs = [(k, k) for k in range(first)] + [
            (first + k, first + offsets.index(offset))
            for k, offset in enumerate(turned)
            if offset in offsets
        ]
        for own, other in pairs:
            total[:, own] += each[:, other]
            counts[own] += 1
    total /= counts[:, None, None]
    return total


def turn_offset(offset: Offset, turns: int, mirrored: bool) -> Offset:
    """Return where an offset leads in a picture that is turned, then mirrored."""
    z, y, x = offset
    for _ in range(turns % 4):
        # what is at (y, x) goes to (last - x, y)
        y, x = -x, y
    return z, y, -x if mirrored else x


def _there(
    windows: NDArray[np.float32], turns: int, mirrored: bool
) -> NDArray[np.float32]:
    windows = np.rot90(windows, turns, axes=(-2, -1))
    return np.ascontiguousarray(windows[..., ::-1] if mirrored else windows)


def _back(
    windows: NDArray[np.float32], turns: int, mirrored: bool
) -> NDArray[np.float32]:
    # the steps of `_there` undone in reverse order
    windows = windows[..., ::-1] if mirrored else windows
    return np.rot90(windows, -turns, axes=(-2, -1))
