"""One axis of a picture: between its pixels and a network's, mirrored at its ends.

Both directions are sampled at absolute positions, so that the result doesn't depend on
which part is asked for.
"""

from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Taps:
    """Weights `(m, k)` of the input pixels `index` `(m, k)` for m output pixels."""

    index: NDArray[np.intp]
    weight: NDArray[np.float32]

    @property
    def span(self) -> tuple[int, int]:
        """First and one past the last input pixel used."""
        return int(self.index.min()), int(self.index.max()) + 1

    def apply(
        self, values: NDArray[np.float32], axis: int, origin: int
    ) -> NDArray[np.float32]:
        """Resample `values`, whose first pixel along `axis` is `origin`."""
        index = self.index - origin
        if index.shape[1] == 1:
            return values.take(index[:, 0], axis=axis)
        shape = [1] * values.ndim
        shape[axis] = -1
        out = values.take(index[:, 0], axis=axis) * self.weight[:, 0].reshape(shape)
        for k in range(1, index.shape[1]):
            out += values.take(index[:, k], axis=axis) * self.weight[:, k].reshape(
                shape
            )
        return out


@dataclass(frozen=True, slots=True)
class Axis:
    """One in-plane axis: `size` source pixels, `zoom` network pixels for each."""

    size: int
    zoom: float

    @property
    def network_size(self) -> int:
        """Length of the picture in network pixels."""
        # a product such as 100 × 1.1 = 110.00000000000001 must not need one more pixel
        return max(1, ceil(self.size * self.zoom - 1e-6))

    def to_network(self, start: int, stop: int) -> Taps:
        """Source pixels for network pixels `start`…`stop`, mirrored at the border."""
        # mirrored among network pixels: one beyond the border has exactly the value of
        # its mirror image, which source pixels on another grid couldn't give
        position = mirror(np.arange(start, stop), self.network_size)
        return _taps(position, self.zoom, self.size)

    def to_source(self, start: int, stop: int) -> Taps:
        """Network pixels for source pixels `start`…`stop`."""
        return _taps(np.arange(start, stop), 1 / self.zoom, self.network_size)


def _taps(position: NDArray[np.intp], zoom: float, n_in: int) -> Taps:
    """Linear interpolation; a triangle as wide as an output pixel when shrinking."""
    if zoom == 1:
        return Taps(position[:, None], np.ones((len(position), 1), np.float32))
    # pixels are squares with their middle at + 0.5, so that both grids share their
    # outer edge, not the middle of their first pixels (torch: align_corners=False)
    centre = (position + 0.5) / zoom - 0.5
    # half the base of the triangle in input pixels: linear interpolation when
    # enlarging, antialiased when shrinking, as Pillow's bilinear filter
    support = max(1.0, 1 / zoom)
    first = np.ceil(centre - support).astype(np.intp)
    index = first[:, None] + np.arange(floor(2 * support) + 1)
    weight = np.clip(1 - np.abs(index - centre[:, None]) / support, 0, None)
    weight /= weight.sum(axis=1, keepdims=True)
    # beyond the ends the last pixel counts for all
    return Taps(np.clip(index, 0, n_in - 1), weight.astype(np.float32))


def mirror(index: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Fold indices into `0 … size - 1` by mirrors in the middle of the border pixels.

    Works however far outside they lie, like `numpy.pad(mode="reflect")`.
    """
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    # border pixels aren't repeated: 0 1 2 3 2 1 | 0 1 …, a period of 2 (size - 1)
    index = np.mod(index, period)
    return np.minimum(index, period - index)
