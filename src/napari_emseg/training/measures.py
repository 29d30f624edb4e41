"""Membranes and cells of a region against the truth, square by square.

Scores are ratios of sums over squares, so that a bootstrap only draws squares: what is
next to each other is alike, and single pixels would feign certainty. What two weights
were found to differ by is a `Comparison`, which can be read without PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Region
from napari_emseg.core.settings import CellSettings
from napari_emseg.metrics.overlap import (
    CellScores,
    cell_scores,
    false_merges_and_splits,
)

SQUARE = 64
"""Side of what is drawn, px."""

DRAWS = 2000

LEAST_SQUARES = 4
"""Fewer squares, drawn again and again, say nothing of how certain a score is."""

Verdict = Literal["better", "worse", "mixed", "no difference", "too little data"]
Basis = Literal["held-out regions", "corrections"]

Score = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Sums `(…, k)` → scores `(…)`."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference and its 95 % interval by paired bootstrap, NaN if it has none."""

    value: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        """True if there is an interval."""
        return not isnan(self.low)

    @property
    def words(self) -> str:
        """For people: `+0.040, 95 % from +0.021 to +0.058`."""
        if not self.known:
            return f"{self.value:+.3f}"
        return f"{self.value:+.3f}, 95 % from {self.low:+.3f} to {self.high:+.3f}"


@dataclass(frozen=True, eq=False)
class Measured:
    """Sums over squares.

    Parameters
    ----------
    counts
        `(n, 3)` pixels of membrane: right, predicted only, true only.
    information
        `(n, 2)` bits lost by splits and mergers times pixels, and pixels; None if cells
        were not compared.
    """

    counts: NDArray[np.float64]
    information: NDArray[np.float64] | None
    pixels: int
    splits: int = 0
    mergers: int = 0
    cells: tuple[tuple[int, CellScores], ...] = ()
    """Of each region: pixels, and what else is said of its cells."""

    @classmethod
    def together(cls, parts: Sequence[Measured]) -> Measured:
        """Join what was measured in several regions."""
        if not parts:
            return cls(np.zeros((0, 3)), None, 0)
        cells = [p.information for p in parts if p.information is not None]
        return cls(
            np.concatenate([p.counts for p in parts]),
            np.concatenate(cells) if len(cells) == len(parts) else None,
            sum(p.pixels for p in parts),
            sum(p.splits for p in parts),
            sum(p.mergers for p in parts),
            tuple(part for p in parts for part in p.cells),
        )

    @property
    def scores(self) -> dict[str, float]:
        """By name."""
        counts = self.counts.sum(axis=0)
        found = {"pixel_f": float(_f(counts))} if _has_membrane(counts) else {}
        if self.information is not None:
            found["vi"] = float(_mean(self.information.sum(axis=0)))
            found |= {"splits": float(self.splits), "mergers": float(self.mergers)}
        sizes = [pixels for pixels, _ in self.cells]
        for name in _OF_CELLS if self.cells else ():
            values = [getattr(scores, name) for _, scores in self.cells]
            found[f"cells_{name}"] = float(np.average(values, weights=sizes))
        return found


@dataclass(frozen=True, eq=False)
class Changed:
    """A region of set number `of`, and what changed in it `(y, x)`: `SAME` …."""

    of: int
    region: Region
    map: NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What is known of candidate and current weights.

    Parameters
    ----------
    basis
        `held-out regions`, or `corrections`: then both were measured on what the
        candidate learnt from, which flatters it.
    current, candidate
        By name: `pixel_f` (of membrane, if any is known), `vi` (bits), `splits`,
        `mergers`.
    differences
        Candidate less current, with 95 % intervals by paired bootstrap.
    pixels
        On which they were measured.
    """

    verdict: Verdict
    basis: Basis
    pixels: int
    regions: tuple[Region, ...]
    current: dict[str, float]
    candidate: dict[str, float]
    differences: dict[str, Interval]
    changed: tuple[Changed, ...] = field(repr=False, default=())

    @property
    def words(self) -> str:
        """The outcome as a sentence or two."""
        if self.pixels == 0:
            return "nothing to measure on: review a region away from what was corrected"
        measured = ", ".join(self._format_measures()) or UNDEFINED
        where = (
            f"on {self.pixels:,} held-out px"
            if self.basis == "held-out regions"
            else f"measured only where you corrected, {self.pixels:,} px"
        )
        return f"{_SAID[self.verdict]}: {measured}, {where}"

    def _format_measures(self) -> Iterator[str]:
        for name, (title, unit) in _COMPARED.items():
            difference = self.differences.get(name)
            if difference is not None:
                numbers = f"{self.candidate[name]:.3f} against {self.current[name]:.3f}"
                yield f"{title} {numbers}{unit} ({difference.words})"

    @property
    def scores(self) -> dict[str, float]:
        """For a card."""
        if self.basis != "held-out regions" or not self.pixels:
            return {}
        return {
            **{f"held_out_{name}": value for name, value in self.candidate.items()},
            **{f"parent_{name}": value for name, value in self.current.items()},
            "held_out_pixels": float(self.pixels),
        }


UNDEFINED = "no membrane is known there, so no score can be given"

_OF_CELLS = ("v_rand", "v_info", "adapted_rand_error")
"""Of regions one by one, beside VI and counts."""

_COMPARED = {"vi": ("VI", " bits"), "pixel_f": ("pixel F", "")}

_SAID: dict[Verdict, str] = {
    "better": "the candidate is better",
    "worse": "the candidate is worse",
    "mixed": "better in pixels or in cells, worse in the other",
    "no difference": "no difference can be shown",
    "too little data": "too little data to tell",
}


def true_cells(truth: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return the cells that class numbers `(y, x)` show, 0 in membrane and `IGNORE`.

    Made of drawn membranes as of predicted ones. Connected parts would be one cell
    through any hole that was left in a wall, which no cells of a run are: weights that
    show the whole wall would be called wrong there, and those right whose membranes
    were corrected, since they have the same hole.
    """
    from napari_emseg.segmentation.fragments import find_fragments
    from napari_emseg.training.losses import IGNORE, MEMBRANE  # with PyTorch

    wall = truth == MEMBRANE
    # not `segment_section`, to which a section without membrane shows nothing at all
    # what was drawn is there, however small it is
    settings, known = CellSettings(minimum_size=0), truth != IGNORE
    fragments = find_fragments(
        wall.astype(np.float32), settings.threshold, exclude=~known
    )
    made = fragments.cells(settings)
    made[wall] = 0
    return made


def measure(
    membrane: NDArray[np.bool_],
    cells: NDArray[np.uint32] | None,
    truth: NDArray[np.uint8],
    *,
    true: NDArray[np.uint32] | None = None,
    squares: bool = True,
) -> Measured:
    """Measure one region.

    Parameters
    ----------
    membrane, cells
        Predicted, `(y, x)`; None for cells leaves them out.
    truth
        Class numbers, `IGNORE` where nothing is known.
    true
        Its `true_cells`, for whoever has them.
    squares
        Cut the region into squares; else it is one.
    """
    from napari_emseg.training.losses import IGNORE, MEMBRANE  # with PyTorch

    known = truth != IGNORE
    square = _squares(truth.shape, SQUARE if squares else max(truth.shape))
    n = int(square.max()) + 1
    wall = (truth == MEMBRANE) & known
    kinds = (membrane & wall, membrane & ~wall & known, ~membrane & wall)
    counts = np.stack([np.bincount(square[k], minlength=n) for k in kinds], axis=1)
    pixels = int(np.count_nonzero(known))
    if cells is None:
        return Measured(counts.astype(float), None, pixels)
    true = true_cells(truth) if true is None else true
    information, splits, mergers = _cells(cells, true, square, n)
    others = ((pixels, cell_scores(cells, true)),) if squares and true.any() else ()
    return Measured(counts.astype(float), information, pixels, splits, mergers, others)


def difference(
    current: Measured, candidate: Measured, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """Return candidate less current, drawing the same squares of both."""
    n = len(current.counts)
    if n == 0:
        return {}
    rng = np.random.default_rng(seed)
    # `times[d, s]`: how often draw d has square s. Scores are ratios of
    # sums, so all draws are one matrix product; the same draws for both,
    # which makes the bootstrap paired.
    times = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    found = {}
    if _has_membrane(current.counts.sum(axis=0)):
        found["pixel_f"] = _interval(times, current.counts, candidate.counts, _f)
    a, b = current.information, candidate.information
    if a is not None and b is not None:
        found["vi"] = _interval(times, a, b, _mean)
    return found


def _interval(
    times: NDArray[np.float64],
    current: NDArray[np.float64],
    candidate: NDArray[np.float64],
    score: Score,
) -> Interval:
    value = score(candidate.sum(axis=0)) - score(current.sum(axis=0))
    if len(current) < LEAST_SQUARES:
        return Interval(float(value), nan, nan)
    drawn = score(times @ candidate) - score(times @ current)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def _f(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """F of pixels from the last axis: right, predicted only, true only."""
    both, predicted, true = np.moveaxis(counts, -1, 0)
    sizes = 2 * both + predicted + true
    return np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)


def _has_membrane(counts: NDArray[np.float64]) -> bool:
    """Tell if there is membrane to be found: without any, F says nothing."""
    both, _, true = counts
    return bool(both + true > 0)


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    total, n = np.moveaxis(sums, -1, 0)
    found: NDArray[np.float64] = total / np.maximum(n, 1)
    return found


def _squares(shape: tuple[int, ...], side: int) -> NDArray[np.intp]:
    """Return which square each pixel is in, `(y, x)`; the last ones may be smaller."""
    rows, columns = (np.arange(n) // side for n in shape)
    return rows[:, None] * (int(columns[-1]) + 1) + columns[None]


def _cells(
    predicted: NDArray[np.uint32],
    true: NDArray[np.uint32],
    square: NDArray[np.intp],
    n: int,
) -> tuple[NDArray[np.float64], int, int]:
    """Bits lost in each square times pixels, and pixels; splits; mergers.

    Variation of information as a sum over pixels of true cells:
    -log2 p(predicted | true) - log2 p(true | predicted).
    """
    keep = true > 0
    if not keep.any():
        return np.zeros((n, 2)), 0, 0
    t, p = true[keep].astype(np.int64), predicted[keep].astype(np.int64)
    # the contingency table by its filled cells: one number
    # for each pair (true, predicted)
    pairs, which, shared = np.unique(
        t * (int(p.max()) + 1) + p, return_inverse=True, return_counts=True
    )
    t_of, p_of = np.divmod(pairs, int(p.max()) + 1)
    t_size = np.bincount(t_of, shared)[t_of]
    p_size = np.bincount(p_of, shared)[p_of]
    # of each pixel of a pair; their mean is H(predicted | true) + H(true | predicted)
    bits = -np.log2(shared / t_size) - np.log2(shared / p_size)
    where = square[keep]
    lost = np.bincount(where, bits[which], minlength=n)
    sums = np.stack([lost, np.bincount(where, minlength=n)], axis=1).astype(float)
    mergers, splits = false_merges_and_splits(t_of, p_of, shared)
    return sums, splits, mergers
