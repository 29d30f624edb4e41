"""One section against its truth: labels, border thinning and table sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.metrics.agreement import TableSums
from napari_emseg.metrics.kernels import flat
from napari_emseg.metrics.kernels.overlap import overlap_sums
from napari_emseg.metrics.kernels.thinning import flood, label


class Labels:
    """4-connected components of a mask `(y, x)`, kept in the kernels' flat form."""

    def __init__(self, inside: NDArray[np.bool_]) -> None:
        self.shape = (inside.shape[0], inside.shape[1])
        self.step = flat.column(self.shape)
        self.flat, self.count = label(flat.pad(inside), self.step)

    def thinned(self) -> Labels:
        """Grow the components until only dams part them; no component: one basin."""
        grown = Labels.__new__(Labels)
        grown.shape, grown.step = self.shape, self.step
        grown.count = max(self.count, 1)
        if self.count:
            grown.flat = flood(self.flat, self.step)
        else:
            grown.flat = flat.pad(np.ones(self.shape, np.int32))
        return grown

    def image(self) -> NDArray[np.int32]:
        """Labels `(y, x)`; 0 = membrane or dam."""
        return flat.unpad(self.flat, self.shape)

    def against(self, truth: Labels) -> TableSums:
        """Sum up the table of `truth` and these labels."""
        sums = overlap_sums(truth.flat, self.flat, truth.count, self.count)
        return TableSums(*sums)
