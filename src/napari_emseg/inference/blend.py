"""Overlapping tiles of one section in, their weighted mean out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Blend:
    """The mean of what tiles say of each pixel, by their weights, tile after tile.

    Where tiles are missing yet, it is the mean of those that are there.

    Parameters
    ----------
    channels, shape
        Of the section's result.
    values
        `(channels, y, x)`, to be filled in place; an array of its own if None.
    """

    def __init__(
        self,
        channels: int,
        shape: tuple[int, int],
        values: NDArray[np.float32] | None = None,
    ) -> None:
        if values is None:
            values = np.empty((channels, *shape), np.float32)
        values[:] = 0
        self._values = values
        self._weight = np.zeros(shape, np.float32)

    def add(
        self,
        area: tuple[slice, slice],
        values: NDArray[np.float32],
        weights: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Add a tile's values `(c, y, x)`; return a copy of the mean in its area."""
        total = self._weight[area]
        total += weights
        mean = self._values[:, area[0], area[1]]
        # the first tile of a pixel is taken as it is: the quotient is 1
        mean += (values - mean) * (weights / total)
        return mean.copy()
