"""A look at a stack: small pictures of a section, and whether membranes are dark."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.intensity import normalise, padding, section_range
from napari_emseg.core.polarity import Polarity, polarity
from napari_emseg.core.records import Progress, Record
from napari_emseg.core.settings import Invert, Normalisation
from napari_emseg.core.stack import Stack

MIDDLE_SIDE = 1024
"""Of the middle of the section, whose grey values the pictures are made with, px."""

THUMBNAIL = 88
"""Side of the small pictures, px."""


@dataclass(frozen=True, slots=True, eq=False)
class PolarityPreview:
    """What was seen of a stack.

    Parameters
    ----------
    z
        The section of the pictures.
    as_it_is, inverted
        Small pictures `(y, x)`, as a network would see them, float32 in [0, 1].
    polarity
        Of the stack: what a run with `invert` auto goes by, too.
    """

    z: int
    as_it_is: NDArray[np.float32]
    inverted: NDArray[np.float32]
    polarity: Polarity

    def inverts(self, invert: Invert) -> bool:
        """Tell whether a run would invert."""
        return invert == "yes" or (invert == "auto" and self.polarity.inverted is True)


def iter_polarity_preview(
    stack: Stack, z: int
) -> Generator[Record, None, PolarityPreview]:
    """Look at a stack, and at one section of it.

    Raises
    ------
    OSError, ValueError
        If the section can't be read.
    """
    yield Progress("looking", 0, 1)
    section = _middle(stack.section(z), MIDDLE_SIDE)
    grey = section_range(section, Normalisation(), padding(section))
    part = _middle(section, 2 * THUMBNAIL)[::2, ::2]
    as_it_is = np.clip(normalise(part, grey), 0, 1)
    return PolarityPreview(z, as_it_is, 1 - as_it_is, polarity(stack))


def _middle(values: NDArray[Any], side: int) -> NDArray[Any]:
    parts = (slice(max(0, (n - side) // 2), (n + side) // 2) for n in values.shape)
    return values[tuple(parts)]
