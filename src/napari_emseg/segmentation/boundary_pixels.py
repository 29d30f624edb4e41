"""The pixels between fragments that become membrane where two cells meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class BoundaryPixels:
    """Of each two 4-neighbours in different fragments, the pixel of more membrane.

    Parameters
    ----------
    pixels, beside
        `(k,)` positions in the flattened section, of that pixel and of the other one.
    edges
        `(k,)` which of `ends` the two fragments are.
    ends
        `(m, 2)` fragments with a common boundary.
    """

    pixels: NDArray[np.int32]
    beside: NDArray[np.int32]
    edges: NDArray[np.int32]
    ends: NDArray[np.int64]

    def between(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Pixels that part two cells, if fragment k belongs to cell `ids[k]`."""
        a, b = ids[self.ends].T
        apart: NDArray[np.bool_] = (a != b) & (a > 0) & (b > 0)
        return self.pixels[apart[self.edges]]


def boundary_pixels(
    labels: NDArray[np.uint32], membrane: NDArray[np.float32]
) -> BoundaryPixels:
    """Find the seams of fragments `(y, x)`; `ends` ascend."""
    place = np.arange(labels.size, dtype=np.int32).reshape(labels.shape)
    pixels, others, pairs = [], [], []
    n = int(labels.max()) + 1
    for axis in (0, 1):
        label, value, at = (np.moveaxis(a, axis, 0) for a in (labels, membrane, place))
        meet = (label[:-1] != label[1:]) & (label[:-1] > 0) & (label[1:] > 0)
        a, b = (part[meet].astype(np.int64) for part in (label[:-1], label[1:]))
        first = value[:-1][meet] > value[1:][meet]
        one, other = at[:-1][meet], at[1:][meet]
        pixels.append(np.where(first, one, other))
        others.append(np.where(first, other, one))
        pairs.append(np.minimum(a, b) * n + np.maximum(a, b))
    found, edges = np.unique(np.concatenate(pairs), return_inverse=True)
    ends = np.stack(np.divmod(found, n), axis=1)
    chosen, beside = np.concatenate(pixels), np.concatenate(others)
    return BoundaryPixels(chosen, beside, edges.astype(np.int32), ends)
