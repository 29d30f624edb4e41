"""How fast weights run on this machine, remembered while the program runs."""

from time import perf_counter

import numpy as np

from napari_emseg.core.settings import PredictSettings
from napari_emseg.core.symmetry import SYMMETRIES
from napari_emseg.core.tiles import TilePlan
from napari_emseg.inference.runtime import Runtime
from napari_emseg.models.weights import Weights

SIDE = 320
"""Of the picture that is timed: large enough to be typical, over in a second."""

Machine = tuple[str, str, bool, int | None]
Key = tuple[str, int | None, str, Machine]

_MS_PER_MEGAPIXEL: dict[Key, float] = {}
"""Of one pass of the network."""


def known(weights: Weights, settings: PredictSettings) -> float | None:
    """Return ms per megapixel of network input; None if never measured."""
    ms = _MS_PER_MEGAPIXEL.get(_key(weights, settings))
    return None if ms is None else ms * _passes(settings)


def remember(weights: Weights, settings: PredictSettings, ms: float) -> None:
    """Keep what was measured, ms per megapixel of network input."""
    # kept for one pass, so that a time without mirrors tells one with them
    _MS_PER_MEGAPIXEL[_key(weights, settings)] = ms / _passes(settings)


def measure(runtime: Runtime) -> float:
    """Return ms per megapixel of network input, from one small window."""
    shape = TilePlan((SIDE, SIDE), runtime.geometry).window_shape
    batch = np.zeros((1, runtime.context, *shape), np.float32)
    runtime(batch)  # the first of a shape allocates
    start = perf_counter()
    runtime(batch)
    return (perf_counter() - start) * 1e9 / batch[:, 0].size


def _passes(settings: PredictSettings) -> int:
    """How often the network runs over each window."""
    return len(SYMMETRIES) if settings.tta else 1


def _key(weights: Weights, settings: PredictSettings) -> Key:
    part = weights.at(settings.depth, settings.heads)
    s = settings
    machine = s.device, s.runtime, s.half_precision, s.threads
    return str(part.path), part.depth, part.heads, machine
