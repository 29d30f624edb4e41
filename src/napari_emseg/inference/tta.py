"""A runtime that averages what another one says of all mirrors and rotations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.symmetry import mean_over_symmetries
from napari_emseg.inference.runtime import Runtime


class TTARuntime:
    """Runs each window eight times, mirrored and turned, and averages.

    The geometry is that of the network: its context is as wide on all sides, and the
    length of a window is a multiple of the stride (for `valid` networks always the same
    more than one), so that a turned window lies on the same pooling grid of the picture
    whichever tile it is.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.name = runtime.name
        self.device = runtime.device
        self.geometry = runtime.geometry
        self.bytes_per_pixel = runtime.bytes_per_pixel
        self.notes = runtime.notes

    def __call__(self, batch: NDArray[np.float32], /) -> NDArray[np.float32]:
        """Return the mean probabilities `(n, n_classes, y', x')`."""
        return mean_over_symmetries(self._runtime, batch)

    def free_memory(self) -> int:
        """Bytes that a run may use on the device at this moment."""
        return self._runtime.free_memory()

    def release(self) -> None:
        """Give back what is held only to be faster next time."""
        self._runtime.release()
