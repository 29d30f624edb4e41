"""What an array means, membrane, inside or cells, and how to see it as another one."""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emseg.core.labels import Meaning, inside_mask
from napari_emseg.metrics.inputs import as_ids, as_probabilities


def check_meaning(value: str, *, name: str) -> None:
    """Refuse a meaning that is none of `membrane`, `inside` and `cells`."""
    if value not in get_args(Meaning):
        msg = f"{name} must be one of {', '.join(get_args(Meaning))}; got {value!r}"
        raise ValueError(msg)


def predicted_inside(prediction: ArrayLike, meaning: Meaning) -> NDArray[np.float32]:
    """Probability of inside, of the same shape.

    Raises
    ------
    ValueError
        Integers other than 8-bit ones as probabilities; values outside [0, 1]; NaN.
    """
    if meaning == "cells":
        cells = as_ids(prediction, name="prediction")
        return inside_mask(cells, meaning).astype(np.float32)
    array = np.asarray(prediction)
    if array.dtype == np.uint8:
        steps = 255 - array if meaning == "membrane" else array
        return as_probabilities(steps / np.float32(255))
    probabilities = as_probabilities(array, name=f"prediction of {meaning}")
    return 1 - probabilities if meaning == "membrane" else probabilities


def true_inside(truth: ArrayLike, meaning: Meaning) -> NDArray[np.bool_]:
    """Mask of inside, of the same shape; cells that touch get a membrane between."""
    array = as_ids(truth, name="truth") if meaning == "cells" else np.asarray(truth)
    return inside_mask(array, meaning)


def cells_of_inside(inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    """4-connected components of each section of `(z, y, x)`, each numbered from 1."""
    from scipy.ndimage import label

    return np.stack([label(section)[0] for section in inside]).astype(np.int32)


def labelled_sections(
    prediction: ArrayLike, truth: ArrayLike, truth_is: Meaning
) -> tuple[NDArray[np.generic], NDArray[np.generic], list[int]]:
    """Return both as `(z, y, x)` without the sections that hold no true cell.

    Stacks are often labelled in a few sections only. The third value names those that
    were left out; masks keep all their sections.

    Raises
    ------
    ValueError
        Shapes that differ, an empty stack, a truth without cells.
    """
    predicted, true = _stack(prediction, "prediction"), _stack(truth, "truth")
    if predicted.shape != true.shape:
        msg = f"shapes differ: prediction {predicted.shape}, truth {true.shape}"
        raise ValueError(msg)
    if truth_is != "cells":
        return predicted, true, []
    labelled = true.any(axis=(1, 2))
    if not labelled.any():
        msg = "truth has no cells: all its ids are 0"
        raise ValueError(msg)
    left_out: list[int] = np.flatnonzero(~labelled).tolist()
    if not left_out:
        return predicted, true, []
    return predicted[labelled], true[labelled], left_out


def _stack(values: ArrayLike, name: str) -> NDArray[np.generic]:
    """Return `(z, y, x)`, also for one section."""
    array = np.asarray(values)
    if array.ndim not in (2, 3) or array.size == 0:
        msg = f"{name} must be (z, y, x) or (y, x) and not empty, got {array.shape}"
        raise ValueError(msg)
    return array.reshape(-1, *array.shape[-2:])
