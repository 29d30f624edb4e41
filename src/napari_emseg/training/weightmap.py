"""Where a training pixel counts more: thin walls between cells, and rare classes.

Ronneberger 2015, equation 2: w(x) = w_c(x) + w0 · exp(-(d1(x) + d2(x))² / 2σ²) with d1
and d2 the distances to the nearest and the second nearest cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

IGNORE = 255
"""Target value of pixels that nobody has an opinion on; no loss, no weight."""

MEMBRANE, INSIDE = 0, 1


def class_weights(targets: list[NDArray[np.uint8]], n_classes: int) -> NDArray[Any]:
    """Return w_c `(n_classes,)`, float32: each class counts alike, mean weight 1."""
    counts = np.zeros(n_classes)
    for target in targets:
        counts += np.bincount(target[target != IGNORE], minlength=n_classes)[:n_classes]
    present = counts > 0
    weights = np.ones(n_classes)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights.astype(np.float32)


def border_weight(
    target: NDArray[np.uint8], *, w0: float = 10.0, sigma: float = 5.0
) -> NDArray[np.float32]:
    """Return the second term of equation 2, `(y, x)`, on membrane pixels, else 0.

    Cells are the 4-connected components of inside pixels; where there is only one cell
    the term is 0. Farther than 6σ from a cell it is below 1e-6, so each cell is
    measured in its own surroundings only: no array of cells × y × x is made.
    """
    cells, n = ndi.label(target == INSIDE)
    if n < 2 or w0 == 0:
        return np.zeros(target.shape, np.float32)
    nearest = np.full(target.shape, np.inf, np.float32)
    second = nearest.copy()
    reach = int(np.ceil(6 * sigma))
    for cell, box in enumerate(ndi.find_objects(cells), start=1):
        around = tuple(
            slice(max(0, part.start - reach), part.stop + reach) for part in box
        )
        distance = ndi.distance_transform_edt(cells[around] != cell)
        distance = distance.astype(np.float32)
        first = nearest[around]
        np.minimum(second[around], np.maximum(distance, first), out=second[around])
        np.minimum(first, distance, out=first)
    weight = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return np.where(target == MEMBRANE, weight, 0).astype(np.float32)
