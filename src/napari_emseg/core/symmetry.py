"""The eight mirrors and rotations of a square grid, and the mean over them.

Ronneberger 2015 averages seven rotations of the input; the eight symmetries need no
interpolation, so that nothing is lost by turning there and back.
"""

from collections.abc import Callable, Iterable, Iterator
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


def mean_over_symmetries(run: Run, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of what `run` says, see `iter_symmetries`."""
    found = iter_symmetries(run, windows)
    total = np.array(next(found))
    for each in found:
        total += each
    total *= np.float32(1 / len(SYMMETRIES))
    return total


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
