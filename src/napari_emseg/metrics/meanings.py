"""What an array means, membrane, inside or cells, and how to see it as another one.

Also what of a prediction and a truth can be compared at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emseg.core.labels import (
    Meaning,
    format_sections,
    inside_mask,
    is_drawn,
    unlabelled,
)
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


@dataclass(frozen=True, slots=True, eq=False)
class ComparablePair:
    """What can be compared of a prediction and its truth, all `(z, y, x)`.

    Where the truth has no label both hold membrane, so that what lies there joins
    nothing and parts nothing, and a perfect prediction scores perfectly.

    Parameters
    ----------
    predicted, true
        As they were given, without sections that nobody labelled.
    inside, mask
        Probability of inside, and where the truth is inside.
    known
        Where the truth has a label; None: everywhere.
    sections
        Numbers of the sections that are left.
    notes
        What was left out, in words.
    """

    predicted: NDArray[Any]
    true: NDArray[Any]
    inside: NDArray[np.float32]
    mask: NDArray[np.bool_]
    known: NDArray[np.bool_] | None
    sections: tuple[int, ...]
    notes: tuple[str, ...]


def comparable(
    prediction: ArrayLike,
    truth: ArrayLike,
    *,
    prediction_is: Meaning,
    truth_is: Meaning,
    sections: Sequence[int] | None = None,
) -> ComparablePair:
    """Leave out sections and pixels that nobody labelled; say which.

    Parameters
    ----------
    sections
        Numbers of the sections in their file, for messages; from 0 by default.

    Raises
    ------
    ValueError
        Shapes that differ, an empty stack, a truth without labels or with a section
        that has nothing but membrane; as `predicted_inside` and `true_inside`.
    """
    predicted, true = _stack(prediction, "prediction"), _stack(truth, "truth")
    if predicted.shape != true.shape:
        msg = f"shapes differ: prediction {predicted.shape}, truth {true.shape}"
        raise ValueError(msg)
    numbers = tuple(range(len(true)) if sections is None else sections)
    drawn = np.array([is_drawn(section, truth_is) for section in true])
    if not drawn.any():
        raise ValueError(_nothing_drawn(true, truth_is))
    notes = []
    if not drawn.all():
        left_out = [z for z, there in zip(numbers, drawn, strict=True) if not there]
        notes.append(f"{format_sections(left_out)} left out: the truth is empty there")
        predicted, true = predicted[drawn], true[drawn]
        numbers = tuple(z for z in numbers if z not in left_out)
    unknown = unlabelled(true, truth_is)
    if unknown is not None:
        notes.append(
            f"{unknown.mean():.1%} of the truth has no label (NaN, below 0, or the "
            "value that its type keeps for that) and was left out"
        )
        predicted = _without(predicted, prediction_is, unknown)
        true = np.where(unknown, true.dtype.type(0), true)
    notes += _unlabelled_prediction(predicted, prediction_is)
    inside = predicted_inside(predicted, prediction_is)
    mask = true_inside(true, truth_is)
    if unknown is not None:
        mask &= ~unknown
    blank = [z for z, section in zip(numbers, mask, strict=True) if not section.any()]
    if blank:
        msg = f"truth has nothing but membrane in {format_sections(blank)}"
        raise ValueError(msg)
    known = None if unknown is None else ~unknown
    return ComparablePair(predicted, true, inside, mask, known, numbers, tuple(notes))


def _without(
    predicted: NDArray[Any], meaning: Meaning, unknown: NDArray[np.bool_]
) -> NDArray[Any]:
    """Return a prediction that is membrane where nothing is known."""
    kind = predicted.dtype
    most = 255 if kind == np.uint8 else 1
    membrane = kind.type(most if meaning == "membrane" else 0)
    return np.where(unknown, membrane, predicted)


def _unlabelled_prediction(predicted: NDArray[Any], meaning: Meaning) -> list[str]:
    found = unlabelled(predicted, meaning) if meaning == "cells" else None
    if found is None:
        return []
    return [f"{found.mean():.1%} of the prediction has no label: taken as no cell"]


def _nothing_drawn(true: NDArray[Any], meaning: Meaning) -> str:
    with np.errstate(invalid="ignore"):
        low, high = (f"{value:g}" for value in (np.min(true), np.max(true)))
    what = (
        "cells: all its ids are" if meaning == "cells" else f"{meaning}: its values are"
    )
    values = low if low == high else f"{low} to {high}"
    return f"truth has no {what} {values}"


def _stack(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return `(z, y, x)`, also for one section."""
    array = np.asarray(values)
    if array.ndim not in (2, 3) or array.size == 0:
        msg = f"{name} must be (z, y, x) or (y, x) and not empty, got {array.shape}"
        raise ValueError(msg)
    return array.reshape(-1, *array.shape[-2:])
