"""One section against its truth: labels, border thinning and table sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.metrics.agreement import TableSums
from napari_emseg.metrics.kernels import flat
from napari_emseg.metrics.kernels.overlap import overlap_sums
from napari_emseg.metrics.kernels.thinning import flood, label
from napari_emseg.metrics.kernels.warping import classify, warp


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


class Warper:
    """One section's truth, to be warped to its prediction at any threshold."""

    def __init__(
        self,
        inside: NDArray[np.float32],
        truth: NDArray[np.bool_],
        simple: NDArray[np.bool_],
    ) -> None:
        self.shape = (inside.shape[0], inside.shape[1])
        self.step = flat.column(self.shape)
        self.inside = flat.pad(inside)
        self.truth = flat.pad(truth)
        self.real = flat.pad(np.ones_like(truth))
        self.simple = simple

    def counts(self, threshold: float) -> list[int]:
        """Pixels left of each kind, in the order of `warping.KINDS`."""
        _, kinds = self._warped(threshold)
        return [int(n) for n in np.bincount(kinds, minlength=6)]

    def kinds(self, threshold: float) -> NDArray[np.uint8]:
        """Picture `(y, x)` of what is left: 0 = nothing, k = the k-th kind."""
        left, kinds = self._warped(threshold)
        picture = np.zeros(self.truth.size, np.uint8)
        picture[left] = kinds + 1
        return flat.unpad(picture, self.shape)

    def _warped(self, threshold: float) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
        """Pixels that cannot be warped and their kinds, from 0."""
        distance = self.inside.astype(np.float64) - threshold
        wrong = np.flatnonzero((distance > 0) != self.truth)
        order = wrong[surest_first(np.abs(distance[wrong]).astype(np.float32))]
        warped = self.truth.copy()
        left = warp(warped, order.astype(np.int32), self.step, self.simple)
        labels, _ = label(warped, self.step)
        return left, classify(warped, labels, self.real, left, self.step)


def surest_first(distance: NDArray[np.float32]) -> NDArray[np.intp]:
    """Stable order from the largest distance down; equal single-precision ones tie.

    The bits of floats that are not negative sort as integers do, and numpy sorts 16-bit
    integers in linear time.
    """
    keys = ~distance.view(np.uint32)
    order = np.argsort((keys & 0xFFFF).astype(np.uint16), kind="stable")
    high = (keys >> 16).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")]
