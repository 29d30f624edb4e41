"""Close a gap: the best way from membrane to membrane past a click."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from bioimage_cpp.distance import dijkstra_distance_field
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.correcting import CorrectSettings
from napari_emseg.edit.area import around, corner
from napari_emseg.edit.draft import draw_membrane
from napari_emseg.edit.edits import Edit
from napari_emseg.edit.sheet import Sheet
from napari_emseg.edit.stroke import painted_along
from napari_emseg.edit.wire import path_costs

TRIED = 6
"""Ends of the way on the other side of the click that are tried."""


def close_gap(
    sheet: Sheet, point: Sequence[float], *, settings: CorrectSettings | None = None
) -> Edit:
    """Close the gap in a membrane near a point `(y, x)` of a cell.

    The edit's words say what it separates; nothing is done before it is applied.

    Raises
    ------
    ValueError
        If there is no cell, it is locked, there are no probabilities, or no way from
        membrane to membrane past the point separates anything.
    """
    settings = settings or CorrectSettings()
    y, x = sheet.pixel((point[0], point[1]))
    cell = sheet.cell_at((y, x))
    if not cell:
        msg = "there is no gap here; click into the opening of a membrane"
        raise ValueError(msg)
    sheet.refuse_locked([cell])
    area = around(np.array([[y, x]]), settings.reach, sheet.shape)
    inside = sheet.window("cells", area) == cell
    costs = path_costs(sheet.probability(area))
    here = np.array([y, x]) - corner(area)
    for path in _ways(costs, inside, here):
        wide, _, place = painted_along(sheet, path + corner(area), settings.width)
        ours = wide & (sheet.window("cells", place) == cell)
        draft, split = draw_membrane(sheet, ours, place, sliver=settings.sliver)
        if split:
            return draft.edit("close gap", _in_words(draft.after["cells"], split))
    msg = (
        f"closing a gap here separates nothing of cell {cell}; click where two "
        f"membranes come close to each other, at most {settings.reach} px away"
    )
    raise ValueError(msg)


def _ways(
    costs: NDArray[np.float64], inside: NDArray[np.bool_], here: NDArray[Any]
) -> list[NDArray[np.int64]]:
    """Return ways `(n, 2)` past a pixel between two places beyond a cell.

    The first end is the nearest; the other ones lie on the other side, nearest first.
    """
    mask = ndi.binary_dilation(inside, np.ones((3, 3)))
    far, before = dijkstra_distance_field(
        mask,
        here,
        costs=costs,
        cost_mode="node_times_physical",
        return_predecessors=True,
    )
    ends = np.argwhere(mask & ~inside & np.isfinite(far))
    if len(ends) == 0:
        return []
    ends = ends[np.argsort(far[tuple(ends.T)], kind="stable")]
    ways: list[NDArray[np.int64]] = []
    first = ends[0]
    direction = _unit(ends - here)
    opposite = ends[(direction @ direction[0]) < 0.3]
    while len(opposite) and len(ways) < TRIED:
        end = opposite[0]
        one, other = (_path(before, tuple(e)) for e in (first, end))
        ways.append(np.concatenate([one[::-1], other[1:]]))
        opposite = opposite[np.hypot(*(opposite - end).T) > 6]
    return ways


def _unit(vectors: NDArray[np.int64]) -> NDArray[np.float64]:
    length = np.maximum(np.hypot(*vectors.T), 1e-9)
    unit: NDArray[np.float64] = vectors / length[:, None]
    return unit


def _path(before: NDArray[np.int64], end: tuple[int, int]) -> NDArray[np.int64]:
    at = int(np.ravel_multi_index(end, before.shape))
    flat = [at]
    steps = before.ravel()
    while steps[at] != at:
        at = int(steps[at])
        flat.append(at)
    return np.stack(np.unravel_index(flat[::-1], before.shape), axis=1)


def _in_words(cells: NDArray[np.generic], split: dict[int, list[int]]) -> str:
    parts = []
    for cell, new in split.items():
        sizes = ", ".join(f"{int((cells == i).sum()):,} px" for i in new)
        parts.append(f"separates {sizes} from cell {cell}")
    return "; ".join(parts)
