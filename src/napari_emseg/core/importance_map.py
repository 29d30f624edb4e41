"""Weights of overlapping tiles: they fade at shared borders and add up to one.

Of two tiles that meet at a border each reaches some pixels beyond it, and a raised
cosine lets the one go as smoothly as it brings in the other:

    1 ──────╲     ╱──────
             ╲   ╱
               ╳
             ╱   ╲
    0 ──────╱     ╲──────
            │  │  │
        border ± reach

So no step is seen where they meet, however much they differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ImportanceMap:
    """Weight of one tile along one axis, in source pixels.

    Parameters
    ----------
    first, last
        Borders that the tile shares with its neighbours; None where there is none.
    reach
        Pixels on each side of a border over which tiles are blended.
    """

    first: int | None = None
    last: int | None = None
    reach: int = 0

    def weights(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return weights in (0, 1] of pixels `start`…`stop`, all inside the tile."""
        pixel = np.arange(start, stop)
        weights = np.ones(len(pixel))
        if self.reach and self.first is not None:
            weights *= self._rising(pixel - self.first)
        if self.reach and self.last is not None:
            weights *= 1 - self._rising(pixel - self.last)
        return weights.astype(np.float32)

    def _rising(self, distance: NDArray[np.intp]) -> NDArray[np.float64]:
        """From 0 to 1 around distance 0, of the middles of the pixels."""
        phase = np.clip((distance + 0.5) / (2 * self.reach) + 0.5, 0, 1)
        rising: NDArray[np.float64] = (1 - np.cos(np.pi * phase)) / 2
        return rising


UNSHARED = ImportanceMap()
"""Of a tile without neighbours along that axis."""
