"""A look at one section: small pictures of it, and whether its membranes are dark."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.intensity import normalise, padding, section_range
from napari_emseg.core.records import Progress, Record
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack

Membranes = Literal["dark", "bright", "unclear"]

SIDE = 1024
"""Of the middle of the section that is looked at, px."""

THUMBNAIL = 88
"""Side of the small pictures, px."""

LINE_SIGMA = 2.0
"""Half the width of the lines that are looked for, px."""

UNCLEAR = 1.015
"""Dark and bright lines that differ by less than this factor say nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What was seen of section `z`.

    Parameters
    ----------
    as_it_is, inverted
        Small pictures `(y, x)`, as a network would see them, float32 in [0, 1].
    membranes
        What they seem to be as it is.
    """

    z: int
    as_it_is: NDArray[np.float32]
    inverted: NDArray[np.float32]
    membranes: Membranes


def looking(stack: Stack, z: int) -> Generator[Record, None, Look]:
    """Look at a section.

    Raises
    ------
    OSError, ValueError
        If it can't be read.
    """
    yield Progress("looking", 0, 1)
    section = _middle(stack.section(z), SIDE)
    rule = Normalisation()
    grey = section_range(section, rule, padding(section))
    part = _middle(section, 2 * THUMBNAIL)[::2, ::2]
    as_it_is = np.clip(normalise(part, grey), 0, 1)
    return Look(z, as_it_is, 1 - as_it_is, membranes_of(section))


def membranes_of(section: NDArray[Any]) -> Membranes:
    """Tell whether thin lines of a section `(y, x)` are dark, as membranes are in EM.

    The picture's curvature across its sharpest lines (the eigenvalues of its Hessian)
    is compared with that across its sharpest lines of the other kind.
    """
    mask = padding(section)
    grey = section_range(section, Normalisation(), mask)
    if grey.blank:
        return "unclear"
    across, along = _curvatures(normalise(section, grey))
    if mask is not None:
        keep = ~ndi.binary_dilation(mask, iterations=round(4 * LINE_SIGMA))
        across, along = across[keep], along[keep]
    if across.size == 0:
        return "unclear"
    dark = np.percentile(np.clip(across, 0, None), 95)
    bright = np.percentile(np.clip(-along, 0, None), 95)
    if dark > UNCLEAR * bright:
        return "dark"
    return "bright" if bright > UNCLEAR * dark else "unclear"


def _curvatures(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the larger and the smaller eigenvalue of the Hessian."""
    yy, xx, xy = (
        ndi.gaussian_filter(values, LINE_SIGMA, order=order)
        for order in ((2, 0), (0, 2), (1, 1))
    )
    mean = (yy + xx) / 2
    spread = np.sqrt(((yy - xx) / 2) ** 2 + xy**2)
    return mean + spread, mean - spread


def _middle(values: NDArray[Any], side: int) -> NDArray[Any]:
    parts = (slice(max(0, (n - side) // 2), (n + side) // 2) for n in values.shape)
    return values[tuple(parts)]
