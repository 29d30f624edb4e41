"""Are membranes dark, as EM has them, or is the stack inverted? A proposal, no verdict.

Membranes are thin lines. The strength of dark lines is compared with that of bright
ones by the eigenvalues of the Hessian at two scales (Frangi et al. 1998); swapping dark
and bright swaps the sign of the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.intensity import normalise, padding, section_range
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack

SIDE = 512
"""Only the middle of a section is looked at, at most so many pixels squared."""

SMALLEST = 100
"""A smaller picture shows too few membranes to tell."""

SCALES = (1.0, 2.0)
"""Standard deviations of the Gaussian, in px."""

MARGIN = 0.08
"""A smaller score than this, either way, can't tell.

Seen: 0.11 to 0.35 on stacks of two fly nerve cords, fly brain, fly optic medulla by
FIB-SEM and mouse cortex, -0.35 to -0.11 on their inversions.
"""


@dataclass(frozen=True, slots=True)
class Polarity:
    """How much stronger dark lines are than bright ones: log of the ratio, mean."""

    score: float

    @property
    def inverted(self) -> bool | None:
        """True if membranes look bright, False if dark, None if it can't be told."""
        if abs(self.score) < MARGIN:
            return None
        return self.score < 0

    @property
    def words(self) -> str:
        """The finding as a sentence."""
        if self.inverted is None:
            return "can't tell whether membranes are dark or bright"
        return f"membranes look {'bright' if self.inverted else 'dark'}"


def polarity(stack: Stack, *, sections: int = 5) -> Polarity:
    """Look at some sections of a stack; those that are damaged or blank don't count."""
    picked = np.unique(np.linspace(0, stack.shape[0] - 1, sections).astype(int))
    scores = [_score(section) for z in picked for section in _read(stack, int(z))]
    known = [score for score in scores if score is not None]
    return Polarity(float(np.mean(known)) if known else 0.0)


def _read(stack: Stack, z: int) -> list[NDArray[Any]]:
    """Return the section's middle in a list, or no section if it can't be read."""
    middle = tuple(
        slice(max(0, (n - SIDE) // 2), (n + SIDE) // 2) for n in stack.shape[1:]
    )
    try:
        return [np.asarray(stack.data[(z, *middle)])]
    except (OSError, ValueError):
        return []


def _score(section: NDArray[Any]) -> float | None:
    if min(section.shape) < SMALLEST:
        return None
    mask = padding(section)
    grey = section_range(section, Normalisation(), mask)
    if grey.blank:
        return None
    values = normalise(section, grey)
    keep = np.ones(values.shape, bool) if mask is None else ~ndi.binary_dilation(mask)
    scores = [_lines(values, sigma, keep) for sigma in SCALES]
    return float(np.mean(scores))


def _lines(values: NDArray[np.float32], sigma: float, keep: NDArray[np.bool_]) -> float:
    """Log of the strength of dark lines over that of bright lines."""
    yy, xy, xx = (
        ndi.gaussian_filter(values, sigma, order=order)
        for order in ((2, 0), (1, 1), (0, 2))
    )
    spread = np.sqrt((yy - xx) ** 2 + 4 * xy**2)
    high, low = (yy + xx + spread) / 2, (yy + xx - spread) / 2
    dark, bright = (
        np.percentile(np.clip(along - np.abs(across), 0, None)[keep], 97)
        for along, across in ((high, low), (-low, high))
    )
    tiny = 1e-6
    return float(np.log((dark + tiny) / (bright + tiny)))
