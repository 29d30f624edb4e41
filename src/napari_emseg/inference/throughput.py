"""How fast weights run on this machine, remembered while the program runs."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.tiles import TilePlan
from napari_emseg.inference.runtime import Runtime
from napari_emseg.models.weights import Weights

SIDE = 320
"""Of the picture that is timed: large enough to be typical, over in a second."""

Key = tuple[str, str, str, bool, int | None]

_MS_PER_MEGAPIXEL: dict[Key, float] = {}


def known(weights: Weights, settings: PredictSettings) -> float | None:
    """Return ms per megapixel of network input; None if never measured."""
    return _MS_PER_MEGAPIXEL.get(_key(weights, settings))


def remember(weights: Weights, settings: PredictSettings, ms: float) -> None:
    """Keep what was measured, ms per megapixel of network input."""
    _MS_PER_MEGAPIXEL[_key(weights, settings)] = ms


def measure(runtime: Runtime) -> float:
    """Return ms per megapixel of network input, from one small window."""
    shape = TilePlan((SIDE, SIDE), runtime.geometry).window_shape
    batch = np.zeros((1, 1, *shape), np.float32)
    runtime(batch)  # the first of a shape allocates
    start = perf_counter()
    runtime(batch)
    return (perf_counter() - start) * 1e9 / batch.size


def _key(weights: Weights, settings: PredictSettings) -> Key:
    s = settings
    return str(weights.path), s.device, s.runtime, s.half_precision, s.threads
