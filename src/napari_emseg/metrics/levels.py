"""The challenge's thresholds, and sections as the number of them a pixel exceeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

R = TypeVar("R")

THRESHOLDS: tuple[float, ...] = tuple(accumulate(repeat(0.1, 10), initial=0.0))
"""0.0, 0.1, 0.2, 0.30000000000000004, …, 0.9999999999999999: a running sum of 0.1."""


@dataclass(frozen=True, slots=True, eq=False)
class SectionPair:
    """One section's prediction as `levels` `(y, x)` beside its truth mask.

    A pixel of level k is inside at the thresholds 0 … k - 1 and membrane at the rest.
    """

    levels: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    thresholds: tuple[float, ...]

    def inside(self, k: int) -> NDArray[np.bool_]:
        """Mask at the k-th threshold, `(y, x)`."""
        return self.levels > k

    def same_as(self) -> list[int]:
        """For each threshold the first one with the very same mask."""
        n = np.bincount(self.levels.ravel(), minlength=len(self.thresholds) + 1)
        first = [0]
        for k in range(1, len(self.thresholds)):
            first.append(k if n[k] else first[-1])
        return first


def pairs(
    inside: NDArray[np.float32],
    truth: NDArray[np.bool_],
    thresholds: tuple[float, ...] = THRESHOLDS,
) -> Iterator[SectionPair]:
    """Binarise each section of `(z, y, x)`: float32 > threshold in double precision."""
    for section, mask in zip(inside, truth, strict=True):
        levels = np.searchsorted(thresholds, section.astype(np.float64), side="left")
        yield SectionPair(levels.astype(np.uint8), mask, thresholds)


def at_thresholds(
    pair: SectionPair, measure: Callable[[NDArray[np.bool_]], R]
) -> list[R]:
    """Measure the mask of each threshold; masks that are equal only once."""
    same = pair.same_as()
    found = {k: measure(pair.inside(k)) for k in sorted(set(same))}
    return [found[k] for k in same]
