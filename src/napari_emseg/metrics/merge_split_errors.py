"""Mistakes as a list of places: what kind, in which section, where, how large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from napari_emseg.metrics.warping import KINDS

Kind = Literal["merger", "split"]


@dataclass(frozen=True, slots=True)
class SegmentationError:
    """A connected group of pixels where cells were merged, or one was split.

    Parameters
    ----------
    z, y, x
        The pixel of the group that is next to its middle.
    pixels
        Its size.
    extent
        The longer side of the box around it, px.
    """

    kind: Kind
    z: int
    y: int
    x: int
    pixels: int
    extent: int


def merge_split_errors(
    kinds: NDArray[np.uint8], *, z: int = 0
) -> list[SegmentationError]:
    """List the mergers and splits of one section.

    Parameters
    ----------
    kinds
        `(y, x)`, as in `Mistakes.kinds`.
    z
        The section that it is.
    """
    return [
        place
        for kind in get_args(Kind)
        for place in _groups(kinds == KINDS.index(f"{kind}s") + 1, kind, z)
    ]


def _groups(mask: NDArray[np.bool_], kind: Kind, z: int) -> list[SegmentationError]:
    """One place for each 8-connected group of a mask `(y, x)`."""
    from scipy.ndimage import find_objects, label

    groups, _ = label(mask, np.ones((3, 3)))
    found = []
    for number, box in enumerate(find_objects(groups), start=1):
        pixels = np.argwhere(groups[box] == number)
        offsets = pixels - pixels.mean(axis=0)
        y, x = pixels[np.argmin((offsets**2).sum(axis=1))]
        sides = [part.stop - part.start for part in box]
        at = (int(box[0].start + y), int(box[1].start + x))
        found.append(SegmentationError(kind, z, *at, len(pixels), max(sides)))
    return found


def format_errors(
    places: list[SegmentationError] | tuple[SegmentationError, ...],
) -> str:
    """Count them, e.g. `4 mergers, 1 split`."""
    counts = {
        kind: sum(place.kind == kind for place in places) for kind in get_args(Kind)
    }
    return ", ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in counts.items())
