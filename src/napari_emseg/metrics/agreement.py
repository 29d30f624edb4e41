"""Sums over contingency tables in, V_Rand and V_Info with their parts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TableSums:
    """Sums over one section's table truth × segments, where the truth is not 0.

    Pixels, squares of the table's cells (`both`) and of its marginals, and entropies in
    nats. Pixels of segment 0 count as segments of one pixel each.
    """

    pixels: int
    both: int
    truth: int
    segments: int
    truth_entropy: float
    segments_entropy: float
    both_entropy: float


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """An F-score and its parts, each `(thresholds, sections)`.

    A low `split` says that cells were split, a low `merge` that cells were merged. A
    part that is not defined is NaN: V_Info's split where a section is in one piece.
    """

    thresholds: tuple[float, ...]
    f: Floats
    split: Floats
    merge: Floats

    @property
    def curve(self) -> Floats:
        """Mean of `f` over the sections at each threshold, `(thresholds,)`."""
        mean: Floats = self.f.mean(axis=1)
        return mean

    @property
    def best(self) -> int:
        """Index of the threshold with the highest mean, the lowest of equals."""
        return int(np.argmax(self.curve))

    @property
    def score(self) -> float:
        """The highest mean over sections."""
        return float(self.curve[self.best])

    @property
    def threshold(self) -> float:
        """The threshold of `score`."""
        return self.thresholds[self.best]

    def part(self, values: Floats) -> float:
        """Mean of `split` or `merge` over the sections at the best threshold."""
        return float(values[self.best].mean())


def v_rand(
    sections: Sequence[Sequence[TableSums]], thresholds: tuple[float, ...]
) -> Agreement:
    """V_Rand of each section and threshold.

    With the table's cells c, marginals t of the truth and s of the segments:
    split = Σ c² / Σ t², merge = Σ c² / Σ s², F = 2 Σ c² / (Σ t² + Σ s²).
    """
    both = _column(sections, "both")
    truth = _column(sections, "truth")
    segments = _column(sections, "segments")
    return Agreement(
        thresholds, 2 * both / (truth + segments), both / truth, both / segments
    )


def v_info(
    sections: Sequence[Sequence[TableSums]], thresholds: tuple[float, ...]
) -> Agreement:
    """V_Info of each section and threshold.

    I = H(truth) + H(segments) - H(both); split = I / H(segments), merge = I / H(truth),
    F = 2 I / (H(truth) + H(segments)), and 0 where either is in one piece.
    """
    truth = _column(sections, "truth_entropy")
    segments = _column(sections, "segments_entropy")
    # mutual information; quotients of it have no unit, so
    # nats and bits give the same score
    information = truth + segments - _column(sections, "both_entropy")
    one_piece = (truth == 0) | (segments == 0)
    # it is 0 then, but for rounding, which a quotient of two tiny numbers would show
    information[one_piece] = 0
    with np.errstate(invalid="ignore"):
        split, merge = information / segments, information / truth
    # any number above 0: it divides 0 there
    both = np.where(one_piece, 1, truth + segments)
    return Agreement(thresholds, 2 * information / both, split, merge)


def pooled_f(sections: Sequence[Sequence[TableSums]]) -> Floats:
    """F of the Rand index over the pixels of all sections, `(thresholds,)`."""
    both, truth, segments = (
        _column(sections, name).sum(axis=1) for name in ("both", "truth", "segments")
    )
    pooled: Floats = 2 * both / (truth + segments)
    return pooled


def _column(sections: Sequence[Sequence[TableSums]], name: str) -> Floats:
    """One sum over `(thresholds, sections)`."""
    rows = [[float(getattr(sums, name)) for sums in section] for section in sections]
    return np.array(rows).T


@dataclass(frozen=True, slots=True)
class PixelCounts:
    """Pixels that are in both masks, in the prediction alone, in the truth alone."""

    both: int = 0
    prediction_only: int = 0
    truth_only: int = 0

    @classmethod
    def of(cls, prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> PixelCounts:
        """Compare two masks of the same shape."""
        both = int(np.count_nonzero(prediction & truth))
        return cls(
            both=both,
            prediction_only=int(np.count_nonzero(prediction)) - both,
            truth_only=int(np.count_nonzero(truth)) - both,
        )

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(
            self.both + other.both,
            self.prediction_only + other.prediction_only,
            self.truth_only + other.truth_only,
        )

    @property
    def wrong(self) -> int:
        """Pixels in one mask alone."""
        return self.prediction_only + self.truth_only

    @property
    def iou(self) -> float:
        """Intersection over union, the Jaccard index; two empty masks agree."""
        return self.both / (self.both + self.wrong) if self.both + self.wrong else 1.0

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum of both sizes, the F-score of pixels."""
        sizes = 2 * self.both + self.wrong
        return 2 * self.both / sizes if sizes else 1.0

    @property
    def precision(self) -> float:
        """Share of the prediction that is right."""
        predicted = self.both + self.prediction_only
        return self.both / predicted if predicted else 1.0

    @property
    def recall(self) -> float:
        """Share of the truth that was found."""
        true = self.both + self.truth_only
        return self.both / true if true else 1.0
