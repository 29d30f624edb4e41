"""The challenge's thresholds, and what a measure says at each of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

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
    levels = np.searchsorted(thresholds, inside.astype(np.float64), side="left")
    count = np.bincount(levels.ravel(), minlength=len(thresholds) + 1)
    found: list[R] = []
    for k in range(len(thresholds)):
        unchanged = k > 0 and count[k] == 0
        found.append(found[-1] if unchanged else measure(levels > k))
    return found
