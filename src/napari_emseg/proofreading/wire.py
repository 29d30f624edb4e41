"""Live-wire: a path that snaps to the ridge of the membrane probabilities.

After Mortensen and Barrett, Intelligent scissors for image composition (1995): the best
paths from one anchor to all pixels of a window are found once; a path to the pointer is
then only read off.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.regions import Area, around, corner
from napari_emseg.core.requirements import dijkstra_distance_field
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading.draw_membrane import draw_membrane
from napari_emseg.proofreading.edits import Edit
from napari_emseg.proofreading.section_view import (
    SectionView,
    line_through,
    painted_along,
)

RIDGE_SIGMA = 1.5
"""Probabilities are smoothed by this much, px, so that broad membranes have a ridge."""

BASE_COST = 0.02
"""Of a step on certain membrane; a step where there is none costs 1 more."""


@dataclass(frozen=True, slots=True, eq=False)
class WireField:
    """The best paths from an anchor to every pixel of an area of section `z`.

    Parameters
    ----------
    before
        `(y, x)` flat index of the pixel before on the way from the anchor.
    """

    z: int
    anchor: tuple[int, int]
    area: Area
    before: NDArray[np.int64] = field(repr=False)

    def path_to(self, point: Sequence[float]) -> NDArray[np.int64]:
        """Return the pixels `(n, 2)` from the anchor to a point of the section.

        Where the point is outside of the area, the path leads to its border.
        """
        origin = np.array(corner(self.area))
        high = np.array(self.before.shape) - 1
        end = np.floor(np.asarray(point, float) + 0.5).astype(int) - origin
        y, x = np.clip(end, 0, high)
        at = int(np.ravel_multi_index((y, x), self.before.shape))
        flat = [at]
        before = self.before.ravel()
        # the anchor is the only pixel that comes before itself
        while before[at] != at:
            at = int(before[at])
            flat.append(at)
        pixels = np.stack(np.unravel_index(flat[::-1], self.before.shape), axis=1)
        path: NDArray[np.int64] = (pixels + origin).astype(np.int64)
        return path


def wire_field(
    sheet: SectionView,
    anchor: Sequence[float],
    *,
    settings: CorrectSettings | None = None,
) -> WireField:
    """Find the best paths from an anchor `(y, x)` along membranes.

    Raises
    ------
    ValueError
        If the anchor is outside of the picture, or there are no probabilities.
    """
    settings = settings or CorrectSettings()
    y, x = sheet.pixel((anchor[0], anchor[1]))
    area = around(np.array([[y, x]]), settings.window, sheet.shape)
    costs = path_costs(sheet.probability(area))
    origin = corner(area)
    _, before = dijkstra_distance_field(
        np.ones(costs.shape, np.uint8),
        np.array([y - origin[0], x - origin[1]]),
        costs=costs,
        cost_mode="node_times_physical",
        return_predecessors=True,
    )
    return WireField(sheet.z, (y, x), area, before)


def path_costs(probability: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cost of a step to each pixel, low on the ridges of membranes."""
    ridge = ndi.gaussian_filter(probability, RIDGE_SIGMA)
    # The square makes a step across a gap costly beside several on a
    # ridge, so a path keeps to a bent membrane. The constant keeps it from
    # winding where membrane is certain.
    costs: NDArray[np.float64] = BASE_COST + (1 - ridge.astype(np.float64)) ** 2
    return costs


def draw_wire(
    sheet: SectionView,
    path: NDArray[np.int64],
    *,
    settings: CorrectSettings | None = None,
) -> Edit:
    """Make a path `(n, 2)` membrane.

    Raises
    ------
    ValueError
        If it is shorter than two pixels, outside of the picture, or in a locked cell.
    """
    settings = settings or CorrectSettings()
    pixels = line_through(path)
    if len(pixels) < 2:
        msg = "a membrane needs two points; click again farther on"
        raise ValueError(msg)
    wide, core, area = painted_along(sheet, pixels, settings.width)
    draft, split = draw_membrane(sheet, wide, area, core=core, sliver=settings.sliver)
    return draft.edit("live-wire", format_membrane(len(pixels), split))


def format_membrane(length: int, split: dict[int, list[int]]) -> str:
    """Return e.g. `membrane of 80 px; separates cell 4 and 91`."""
    words = [f"membrane of {length} px"]
    for cell, new in split.items():
        names = " and ".join(str(i) for i in (cell, *new))
        words.append(f"separates {names}")
    return "; ".join(words)
