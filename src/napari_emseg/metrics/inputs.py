"""What may be scored: probabilities and a truth mask, checked once at the boundary."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Labels = NDArray[np.integer]

ROUNDING = 1e-5
"""By how much a network's probabilities may leave [0, 1]; no threshold notices."""


def as_probabilities(values: ArrayLike, *, name: str = "inside") -> NDArray[np.float32]:
    """Check that `values` are probabilities and return them as float32.

    Raises
    ------
    ValueError
        Integers (whose scale would have to be guessed), NaN, or values outside [0, 1].
    """
    array = np.asarray(values)
    if array.dtype != bool and not np.issubdtype(array.dtype, np.floating):
        msg = (
            f"{name} must be floating point in [0, 1] or bool, got {array.dtype}; "
            "divide integers by the value that stands for 1, 255 in 8 bits"
        )
        raise ValueError(msg)
    if array.size == 0:
        msg = f"{name} is empty: its shape is {array.shape}"
        raise ValueError(msg)
    low, high = float(array.min()), float(array.max())
    if np.isnan(low):
        msg = f"{name} holds {int(np.isnan(array).sum())} NaN; fill them first"
        raise ValueError(msg)
    if low < -ROUNDING or high > 1 + ROUNDING:
        msg = f"{name} must lie in [0, 1], got {low:g} to {high:g}"
        raise ValueError(msg)
    return array.astype(np.float32)


def as_ids(values: ArrayLike, *, name: str) -> Labels:
    """Check that `values` are ids of cells, `(z, y, x)` or `(y, x)`.

    Raises
    ------
    ValueError
        Values that are not integers or below 0; another shape; an empty stack.
    """
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        msg = f"{name} must hold integer ids of cells, got {array.dtype}"
        raise ValueError(msg)
    if array.ndim not in (2, 3) or array.size == 0:
        msg = f"{name} must be (z, y, x) or (y, x) and not empty, got {array.shape}"
        raise ValueError(msg)
    if array.min() < 0:
        msg = f"{name} must hold ids from 0 on, got {array.min()}"
        raise ValueError(msg)
    return array


def as_pair(
    inside: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Check a prediction and its truth; return float32 and bool `(z, y, x)`.

    Raises
    ------
    ValueError
        Shapes that differ, an empty stack, values outside [0, 1], NaN, a truth without
        membrane or with a section that has nothing but membrane.
    """
    probabilities = as_probabilities(inside)
    mask = np.asarray(truth) > 0
    if probabilities.shape != mask.shape:
        msg = f"shapes differ: inside {probabilities.shape}, truth {mask.shape}"
        raise ValueError(msg)
    if mask.ndim not in (2, 3):
        msg = f"a stack must be (z, y, x) or (y, x), got shape {mask.shape}"
        raise ValueError(msg)
    if mask.all():
        msg = "truth has no membrane (0): every pixel is inside a cell"
        raise ValueError(msg)
    shape = (-1, *mask.shape[-2:])
    blank = np.flatnonzero(~mask.reshape(shape).any(axis=(1, 2)))
    if blank.size:
        msg = f"truth has nothing but membrane (0) in sections {blank.tolist()}"
        raise ValueError(msg)
    return probabilities.reshape(shape), mask.reshape(shape)
