"""What may be scored: probabilities and a truth mask, checked once at the boundary."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import Any, TypeVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_emseg.core.labels import (
    Meaning,
    as_labels,
    format_sections,
    inside_mask,
    is_drawn,
    unlabelled,
)
from napari_emseg.core.memory import cores

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
        # in both, or the prediction would be blamed for what nobody knows
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
    # stacks are often labelled in a few sections only: an
    # empty one is unknown, not wrong
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
    # the value of certain membrane: the highest as membrane, 0 as inside or as cells
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


R = TypeVar("R")

THRESHOLDS: tuple[float, ...] = tuple(accumulate(repeat(0.1, 10), initial=0.0))
"""0.0, 0.1, 0.2, 0.30000000000000004, …, 0.9999999999999999: a running sum of 0.1."""


def at_thresholds(
    inside: NDArray[np.float32],
    thresholds: tuple[float, ...],
    measure: Callable[[NDArray[np.bool_]], R],
) -> list[R]:
    """Measure the masks `inside > threshold`; equal ones, being neighbours, only once.

    Probabilities in single precision are compared with thresholds in double, so that
    float32(0.1) is above 0.1 and float32(0.7) is below 0.7, as in the challenge.
    """
    # a level is how many thresholds lie below a probability, so level > k means that it
    # is above threshold k; masks k - 1 and k differ in the pixels of level k alone
    levels = np.searchsorted(thresholds, inside.astype(np.float64), side="left")
    count = np.bincount(levels.ravel(), minlength=len(thresholds) + 1)
    found: list[R] = []
    for k in range(len(thresholds)):
        unchanged = k > 0 and count[k] == 0
        found.append(found[-1] if unchanged else measure(levels > k))
    return found


Result = TypeVar("Result")


def in_threads(
    calls: Iterable[Callable[[], Result]], *, threads: int | None = None
) -> Iterator[Result]:
    """Run `calls` on `threads` (none: all cores) and yield their results in order.

    Calls are asked for only shortly before they run, so that they may hold much memory.
    Closing the iterator cancels those that have not begun.
    """
    threads = cores() if threads is None else threads
    if threads < 1:
        msg = f"threads must be at least 1, got {threads}"
        raise ValueError(msg)
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for call in calls:
                pending.append(pool.submit(call))
                # enough to keep all threads at work while the caller
                # uses a result, and no more arrays
                if len(pending) >= 4 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
