"""Two weights, one section → where their membranes differ."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Progress, Record
from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.stack import Stack
from napari_emseg.models.weights import Weights
from napari_emseg.session.run_scope import Area

SAME, ADDED, GONE = 0, 1, 2
"""Both agree; only the candidate sees membrane; only the current weights do."""


@dataclass(frozen=True, slots=True, eq=False)
class PredictionDiff:
    """Membranes of an area of section `z` by two weights, masks `(y, x)`."""

    z: int
    area: Area
    current: NDArray[np.bool_]
    candidate: NDArray[np.bool_]

    @property
    def differences(self) -> NDArray[np.uint8]:
        """`SAME`, `ADDED` or `GONE` for each pixel `(y, x)`."""
        found = np.where(self.candidate, ADDED, GONE)
        return np.where(self.current == self.candidate, SAME, found).astype(np.uint8)

    @property
    def words(self) -> str:
        """For people: `3.2 % of section 4 differ: …`."""
        marks = self.differences
        n = marks.size
        added, gone = (100 * np.count_nonzero(marks == k) / n for k in (ADDED, GONE))
        return (
            f"section {self.z}: {added:.1f} % became membrane (green), {gone:.1f} % is "
            f"none any more (pink)"
        )


def iter_predict_both(
    stack: Stack,
    weights: Sequence[Weights],
    z: int,
    area: Area,
    settings: PredictSettings,
) -> Generator[Record, None, PredictionDiff]:
    """Predict an area of a section with current and candidate weights.

    Raises
    ------
    ValueError
        If the weights can't be run as the settings say.
    """
    from napari_emseg.inference import Predictor

    membranes = []
    for done, one in enumerate(weights):
        yield Progress("predicting", done, len(weights))
        work = Predictor(one).run(stack, settings=settings, sections=[z], roi=area)
        result = yield from work
        if result.probabilities is None:
            msg = f"section {z} can't be read"
            raise ValueError(msg)
        membranes.append(result.probabilities[0] > _threshold(one, settings))
    yield Progress("predicting", len(weights), len(weights))
    return PredictionDiff(z, area, membranes[0], membranes[1])


def _threshold(weights: Weights, settings: PredictSettings) -> float:
    known = weights.card.variant(settings.depth, settings.heads, tta=settings.tta)
    fixed = None if known is None else known.threshold
    return weights.card.threshold if fixed is None else fixed
