"""Weights that have learnt, and what is known → the threshold of their membranes.

Learning shifts what a network says of a wall: at the threshold that was right before,
cells run together, or fall into pieces.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from torch import nn

from napari_emseg.core.records import Progress
from napari_emseg.metrics.agreement import TableSums, pooled_f
from napari_emseg.metrics.thresholds import at_thresholds
from napari_emseg.models.roi import region_probabilities
from napari_emseg.training.crops import Crop
from napari_emseg.training.weightmap import IGNORE, MEMBRANE

LEVELS: tuple[float, ...] = tuple(k / 20 for k in range(2, 19))
"""Thresholds that are tried, of membrane as of inside: 0.1 to 0.9."""

AS_GOOD = 0.01
"""Thresholds whose V_Rand is so near to the best are as good; their mean is taken."""

SAID_BEFORE = 4
"""The parent's threshold counts as if so many known walls had spoken for it."""

MOST_PIXELS = 8_000_000
"""At most so many network px are looked at, about 10 s."""


def choose_threshold(
    network: nn.Module, crops: Sequence[Crop], parent: float
) -> Generator[Progress, None, float]:
    """Return the threshold of membrane that parts known cells best, 0.1 to 0.9.

    By V_Rand after border thinning, as weights that are trained anew get theirs. Known
    pixels that hang together are a table of their own, since nobody said whether a cell
    of one such group goes on in another. What lies around them is thinned with them:
    cells run together through gaps anywhere, and small places hold few of those.

    Parameters
    ----------
    crops
        What was learnt, and what was held out to stop; nothing that judges the weights.
    parent
        Threshold of the weights that were taught. It stays where no wall between cells
        is known, and has its say where few are.
    """
    sums: list[list[TableSums]] = []
    walls = 0
    network.eval()
    chosen = _some(crops)
    for done, crop in enumerate(chosen, start=1):
        groups = _groups(crop.target)
        if groups:
            found, n = _sums(_inside(network, crop), groups)
            sums += found
            walls += n
        yield Progress("choosing the threshold", done, len(chosen))
    if walls == 0:
        return parent
    f = pooled_f(sums)
    good = np.array(LEVELS)[f >= f.max() - AS_GOOD]
    best = 1 - float(good.mean())
    return round((walls * best + SAID_BEFORE * parent) / (walls + SAID_BEFORE), 2)


def _some(crops: Sequence[Crop]) -> list[Crop]:
    """Take crops, the same ones each time, until there are pixels enough."""
    order = np.random.default_rng(0).permutation(len(crops))
    sizes = np.cumsum([crops[k].image.size for k in order])
    n = max(1, int(np.count_nonzero(sizes <= MOST_PIXELS)))
    return [crops[k] for k in order[:n]]


def _groups(target: NDArray[np.uint8]) -> list[NDArray[np.bool_]]:
    """Return the known cells `(y, x)` of each group of known pixels."""
    groups, n = ndi.label(target != IGNORE, np.ones((3, 3)))
    inside = (target != IGNORE) & (target != MEMBRANE)
    cells = (inside & (groups == k) for k in range(1, n + 1))
    return [part for part in cells if part.any()]


def _inside(network: nn.Module, crop: Crop) -> NDArray[np.float32]:
    y, x = crop.image.shape
    p = region_probabilities(network, crop.image, (slice(0, y), slice(0, x)))
    inside: NDArray[np.float32] = 1 - p[MEMBRANE]
    return inside


def _sums(
    inside: NDArray[np.float32], groups: Sequence[NDArray[np.bool_]]
) -> tuple[list[list[TableSums]], int]:
    """Return table sums by group and level, and how many cells lie beside others."""
    from napari_emseg.metrics.kernels.section import Labels

    cells = [Labels(part) for part in groups]

    def measure(mask: NDArray[np.bool_]) -> list[TableSums]:
        shown = Labels(mask).thinned()
        return [shown.against(part) for part in cells]

    by_level = at_thresholds(inside, LEVELS, measure)
    walls = sum(part.count - 1 for part in cells)
    return [list(part) for part in zip(*by_level, strict=True)], walls
