"""What is known of the membranes of a stack: predicted, or given as probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.intensity import padding
from napari_emseg.core.stack import LazyArray

if TYPE_CHECKING:
    from napari_emseg.session.results import Results


class OpenedProbabilities:
    """Opened probabilities `(z, y, x)` as float32 in [0, 1], whatever they are."""

    def __init__(self, data: LazyArray) -> None:
        self._data = data
        self.shape = data.shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        values = np.asarray(self._data[key])
        full = np.float32(255 if values.dtype == np.uint8 else 1)
        scaled: NDArray[np.float32] = values.astype(np.float32) / full
        return scaled


class PredictedProbabilities:
    """Predicted probabilities by section; NaN where there are none."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self.shape = results.shape
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        z = int(key)
        section: NDArray[np.float32] = self._results.probabilities[z]
        return _known(section, self._results.unknown(z))


class MaskedProbabilities(PredictedProbabilities):
    """Predicted probabilities by section; NaN where there are none, or no picture."""

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        section = self._results.probabilities[int(key)]
        return _known(super().__getitem__(key), padding(section))


def _known(
    section: NDArray[np.float32], outside: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    """Return a section with NaN outside."""
    return (
        section if outside is None else np.where(outside, np.float32(np.nan), section)
    )
