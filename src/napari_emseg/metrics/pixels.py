"""Two masks compared pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
