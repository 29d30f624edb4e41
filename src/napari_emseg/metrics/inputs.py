"""What may be scored: probabilities and a truth mask, checked once at the boundary."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emseg.core.labels import as_labels, unlabelled

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

    Pixels without a label are 0, see `core.labels.unlabelled`; ids that are kept as
    floats become integers.

    Raises
    ------
    ValueError
        Values that are no whole numbers; another shape; an empty stack.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        msg = f"{name} must hold ids of cells, whole numbers, got {array.dtype}"
        raise ValueError(msg)
    if array.ndim not in (2, 3) or array.size == 0:
        msg = f"{name} must be (z, y, x) or (y, x) and not empty, got {array.shape}"
        raise ValueError(msg)
    try:
        return as_labels(array, "cells")
    except ValueError as e:
        msg = f"{name}: {e}"
        raise ValueError(msg) from e


def as_pair(
    inside: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Check a prediction and its truth; return float32 and bool `(z, y, x)`.

    Both are membrane where the truth has no label, see `core.labels.unlabelled`.

    Raises
    ------
    ValueError
        Shapes that differ, an empty stack, values outside [0, 1], NaN, a truth without
        membrane or with a section that has nothing but membrane.
    """
    probabilities, true = as_probabilities(inside), np.asarray(truth)
    mask = true > 0
    if probabilities.shape != mask.shape:
        msg = f"shapes differ: inside {probabilities.shape}, truth {mask.shape}"
        raise ValueError(msg)
    unknown = unlabelled(true, "inside")
    if unknown is not None:
        mask &= ~unknown
        probabilities = np.where(unknown, np.float32(0), probabilities)
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
