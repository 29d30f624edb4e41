"""A prediction and its truth in; scores, a curve and the places of mistakes out.

What the panel Evaluate shows and what it exports, as values and in words.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.labels import Meaning
from napari_emseg.core.records import Progress
from napari_emseg.metrics.agreement import Agreement
from napari_emseg.metrics.evaluation import CellMaker, Evaluation, evaluate_steps
from napari_emseg.metrics.inputs import comparable, in_threads
from napari_emseg.metrics.isbi import simple_points
from napari_emseg.metrics.merge_split_errors import (
    SegmentationError,
    format_errors,
    merge_split_errors,
)
from napari_emseg.metrics.rand_info import RandInfoScores, agreement_at

DIGITS = 9
"""The challenge adds 0.1 up; what that leaves in the last digits is not shown."""


@dataclass(frozen=True, slots=True)
class Curve:
    """V_Rand and V_Info over the probability from which a pixel is membrane.

    The challenge has thresholds of the probability of inside; 1 minus that is what the
    settings of the cells have.
    """

    thresholds: tuple[float, ...]
    """Ascending."""
    v_rand: tuple[float, ...]
    v_info: tuple[float, ...]

    @classmethod
    def of(cls, scores: RandInfoScores) -> Curve:
        """Turn the challenge's thresholds round."""
        ascending = tuple(membrane_at(t) for t in reversed(scores.rand.thresholds))
        return cls(ascending, _reversed(scores.rand), _reversed(scores.info))

    @property
    def best(self) -> float:
        """The threshold of the highest V_Rand, as the challenge chooses it."""
        top = max(self.v_rand)
        # the challenge takes the lowest of equal thresholds of
        # inside: the highest of membrane
        return max(
            t for t, v in zip(self.thresholds, self.v_rand, strict=True) if v == top
        )


def membrane_at(inside: float) -> float:
    """Return the threshold of membrane that one of inside stands for."""
    return round(1 - inside, DIGITS)


def _reversed(agreement: Agreement) -> tuple[float, ...]:
    return tuple(float(value) for value in agreement.curve[::-1])


HALF = 0.5
"""Any threshold will do for masks and cells; their curve is flat."""

Row = tuple[str, float | None, float | None, str]


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """V_Rand and V_Info at a threshold of membrane that validation had fixed."""

    threshold: float
    v_rand: float
    v_info: float


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What a comparison gave.

    Parameters
    ----------
    sections
        Of the stack, in the order of the arrays that were compared.
    curve
        None where there is nothing to threshold: cells and masks.
    fixed
        At the threshold that was fixed on validation, if one is known.
    threshold
        Of membrane, at which `places` were found; None for cells and masks.
    places
        The largest first.
    """

    sections: tuple[int, ...]
    evaluation: Evaluation
    curve: Curve | None
    fixed: AtThreshold | None
    threshold: float | None
    places: tuple[SegmentationError, ...] = field(repr=False)

    @property
    def words(self) -> str:
        """The outcome in a line: `0.973 V_Rand: 4 mergers, 11 splits`."""
        return f"{self.evaluation.isbi.v_rand:.3f} V_Rand: {format_errors(self.places)}"

    @property
    def about_cells(self) -> str:
        """What cells score that are made by default; nothing if there are none."""
        cells = self.evaluation.cells
        if cells is None:
            return ""
        made = "" if self.threshold is None else f" at {self.evaluation.threshold:g}"
        return f"{cells.words}{made}"

    @property
    def about_linked(self) -> str:
        """What cells score through sections; nothing where they weren't compared so."""
        if not self.evaluation.linked:
            return ""
        found = self.evaluation.overlap
        return (
            f"cells through sections: adapted Rand error "
            f"{found.adapted_rand_error:.3f}, VI "
            f"{found.variation_of_information:.3f} bits ({found.vi_split:.3f} by "
            f"splits, {found.vi_merge:.3f} by mergers)"
        )

    @property
    def about_thresholds(self) -> str:
        """V_Rand of probabilities and its threshold; nothing for cells and masks."""
        if self.threshold is None:
            return ""
        top = f"{self.evaluation.isbi.v_rand:.3f}"
        best = f"probabilities: V_Rand {top} at {self.threshold:.1f}, the best of"
        best += " eleven thresholds"
        if self.fixed is None:
            return best
        rand = f"{self.fixed.v_rand:.3f}"
        return f"{best}; {rand} at {self.fixed.threshold:g}, fixed on validation"

    def rows(self) -> list[Row]:
        """Rows of a table: score, value, its best threshold of membrane, meaning."""
        plain = self.curve is None
        return [
            (n, v, None if plain or t is None else membrane_at(t), meaning)
            for n, v, t, meaning in self.evaluation.rows()
        ]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON; thresholds are those of membrane."""
        return {
            "sections": list(self.sections),
            "words": self.words,
            "mistakes_threshold": self.threshold,
            "fixed": None if self.fixed is None else asdict(self.fixed),
            "curve": None if self.curve is None else asdict(self.curve),
            "mistakes": [asdict(place) for place in self.places],
            "evaluation": self.evaluation.as_dict(),
        }

    def as_csv(self) -> str:
        """Write the table of scores: a header and a line for each."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["score", "value", "membrane_threshold", "meaning"])
        for row in self.rows():
            writer.writerow(["" if cell is None else cell for cell in row])
        return text.getvalue()


def report_steps(
    prediction: NDArray[Any],
    truth: NDArray[Any],
    *,
    prediction_is: Meaning,
    truth_is: Meaning,
    sections: Sequence[int] | None = None,
    threshold: float | None = None,
    linked: bool | None = None,
    make_cells: CellMaker | None = None,
) -> Generator[Progress, None, Report]:
    """Score, and look for mergers and splits.

    Parameters
    ----------
    prediction, truth, prediction_is, truth_is, linked, make_cells
        As `evaluate` has them; `(z, y, x)`.
    sections
        Numbers of the sections in their file; from 0 by default.
    threshold
        Of membrane, fixed on the validation set.

    Raises
    ------
    ValueError
        As `evaluate`.
    """
    pair = comparable(
        prediction,
        truth,
        prediction_is=prediction_is,
        truth_is=truth_is,
        sections=sections,
    )
    numbers, inside, mask = pair.sections, pair.inside, pair.mask
    evaluation = yield from _halves(
        evaluate_steps(
            prediction,
            truth,
            prediction_is=prediction_is,
            truth_is=truth_is,
            threshold=HALF if threshold is None else threshold,
            linked=linked,
            sections=sections,
            make_cells=make_cells,
        )
    )
    at = evaluation.isbi.v_rand_threshold
    # a curve needs values between: masks and cells are the same at all thresholds
    probable = prediction_is != "cells" and prediction.dtype != bool
    places = yield from _finding(inside, mask, at if probable else HALF, numbers)
    return Report(
        sections=numbers,
        evaluation=evaluation,
        curve=Curve.of(evaluation.isbi) if probable else None,
        fixed=_fixed(inside, mask, threshold) if probable else None,
        threshold=membrane_at(at) if probable else None,
        places=tuple(sorted(places, key=lambda place: -place.pixels)),
    )


def _halves(
    work: Generator[Progress, None, Evaluation],
) -> Generator[Progress, None, Evaluation]:
    """Count the scores as the first half of the way, sections with mistakes follow."""
    done = 0
    while True:
        try:
            record = next(work)
        except StopIteration as stop:
            found: Evaluation = stop.value
            return found
        # cells are counted from the first section again: what is done stays so
        done = max(done, record.done)
        # mistakes of each section are looked for afterwards
        yield Progress(record.step, done, 2 * record.total)


def _finding(
    inside: NDArray[np.float32],
    truth: NDArray[np.bool_],
    threshold: float,
    numbers: Sequence[int],
) -> Generator[Progress, None, list[SegmentationError]]:
    calls = (
        partial(_places, *section, threshold)
        for section in zip(inside, truth, numbers, strict=True)
    )
    n = len(numbers)
    places: list[SegmentationError] = []
    for done, found in enumerate(in_threads(calls), start=1):
        places += found
        yield Progress("mergers and splits", n + done, 2 * n)
    return places


def _places(
    inside: NDArray[np.float32], truth: NDArray[np.bool_], z: int, threshold: float
) -> list[SegmentationError]:
    from napari_emseg.metrics.kernels.section import Warper

    kinds = Warper(inside, truth, simple_points()).kinds(threshold)
    return merge_split_errors(kinds, z=z)


def _fixed(
    inside: NDArray[np.float32], truth: NDArray[np.bool_], threshold: float | None
) -> AtThreshold | None:
    if threshold is None:
        return None
    rand, info = agreement_at(inside, truth, 1 - threshold)
    return AtThreshold(threshold, rand.score, info.score)
