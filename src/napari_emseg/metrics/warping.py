"""Warping error: the truth is bent towards the prediction; what cannot be bent counts.

After Jain et al., "Boundary learning by optimization with topological constraints",
CVPR 2010, in the challenge's form: no limit to the bending, and only mergers and splits
of objects count, pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from napari_emseg.metrics.thresholds import THRESHOLDS

WARPING_THRESHOLDS = THRESHOLDS[:-1]
"""0.0 … 0.9: one less than the other scores have."""


@dataclass(frozen=True, slots=True)
class WarpingCounts:
    """Pixels at which a warped truth still differs from the prediction, by kind.

    A merger joins objects, a split parts one; holes and objects that appear or vanish
    are free of charge.
    """

    mergers: int = 0
    splits: int = 0
    hole_additions: int = 0
    hole_deletions: int = 0
    object_additions: int = 0
    object_deletions: int = 0

    @property
    def mismatches(self) -> int:
        """All kinds together."""
        return sum(getattr(self, name) for name in KINDS)

    def __add__(self, other: WarpingCounts) -> WarpingCounts:
        return WarpingCounts(*(getattr(self, n) + getattr(other, n) for n in KINDS))


KINDS: tuple[str, ...] = tuple(field.name for field in fields(WarpingCounts))
"""Kinds of mistakes, mergers first, in the order that the kernels number them."""


@dataclass(frozen=True, slots=True, eq=False)
class Warping:
    """What is left after warping at each of the `WARPING_THRESHOLDS`."""

    sections: tuple[tuple[WarpingCounts, ...], ...]
    """One tuple for each section, in it one record for each threshold."""
    pixels: int
    """Pixels in all sections."""

    @property
    def counts(self) -> tuple[WarpingCounts, ...]:
        """Sums over the sections at each threshold."""
        at_each = zip(*self.sections, strict=True)
        return tuple(sum(found, WarpingCounts()) for found in at_each)

    @property
    def curve(self) -> NDArray[np.float64]:
        """Mergers and splits per pixel at each threshold, `(thresholds,)`."""
        counts = [found.mergers + found.splits for found in self.counts]
        return np.array(counts) / self.pixels

    @property
    def best(self) -> int:
        """Index of the threshold with the least error, the lowest of equals."""
        return int(np.argmin(self.curve))


def simple_points() -> NDArray[np.bool_]:
    """Which of the 256 surroundings make a pixel simple: its flip joins, parts nothing.

    Inside is 4-connected and membrane 8-connected. Going round, each edge neighbour
    that is inside and not joined to the next edge by an inside corner ends one group of
    inside pixels; exactly one such end means one group of inside and one of membrane.
    """
    bits = np.arange(256)[:, np.newaxis] >> np.arange(8) & 1 == 1
    edges, corners = bits[:, ::2], bits[:, 1::2]
    ends = edges & ~(corners & np.roll(edges, -1, axis=1))
    simple: NDArray[np.bool_] = ends.sum(axis=1) == 1
    return simple


def warped_counts(
    inside: NDArray[np.float32],
    truth: NDArray[np.bool_],
    thresholds: Sequence[float] = WARPING_THRESHOLDS,
) -> tuple[WarpingCounts, ...]:
    """Warp the truth of one section `(y, x)` to its prediction at each threshold."""
    from napari_emseg.metrics.kernels.section import Warper

    warper = Warper(inside, truth, simple_points())
    return tuple(WarpingCounts(*warper.counts(threshold)) for threshold in thresholds)
