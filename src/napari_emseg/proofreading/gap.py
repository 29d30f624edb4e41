"""Close a gap: the best way from membrane to membrane past a click."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.regions import around, corner
from napari_emseg.core.requirements import dijkstra_distance_field
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.proofreading.draw_membrane import draw_membrane
from napari_emseg.proofreading.edits import Edit
from napari_emseg.proofreading.section_view import SectionView, painted_along
from napari_emseg.proofreading.wire import path_costs

SECTORS = 16
"""Of the directions from the click; the nearest membrane in each is looked at."""

TRIED = 12
"""Ways that are looked at, the cheapest first."""

OPPOSITE = 0.3
"""Largest cosine between the ways from the click to both ends."""


def close_gap(
    sheet: SectionView,
    point: Sequence[float],
    *,
    settings: CorrectSettings | None = None,
) -> Edit:
    """Close the gap in a membrane near a point `(y, x)` of a cell; see `find_gap`."""
    return find_gap(sheet, point, settings=settings)[1]


def find_gap(
    sheet: SectionView,
    point: Sequence[float],
    *,
    settings: CorrectSettings | None = None,
) -> tuple[NDArray[np.int64], Edit]:
    """Return the way `(n, 2)` that closes the gap near a point, and the edit that does.

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
    ways = [(path + corner(area), cost) for path, cost in _ways(costs, inside, here)]
    widest = float(np.sqrt(inside.sum()))
    best = _best(sheet, cell, ways, widest, settings)
    if best is None:
        msg = (
            f"closing a gap here separates nothing of cell {cell}; click where two "
            f"membranes come close to each other, at most {settings.reach} px away"
        )
        raise ValueError(msg)
    path, edit = best
    # the click was near the gap, not on it: go straight from end to end
    ends = path[0] - corner(area), path[-1] - corner(area)
    direct = _direct(costs, inside, *ends) + corner(area)
    tried = _tried(sheet, cell, direct, settings)
    return (path, edit) if tried is None else (direct, tried[0])


def _best(
    sheet: SectionView,
    cell: int,
    ways: list[tuple[NDArray[np.int64], float]],
    widest: float,
    settings: CorrectSettings,
) -> tuple[NDArray[np.int64], Edit] | None:
    """Return the way that costs least for how much it separates; None without any.

    A short way that separates much is better than one that shaves a corner off.
    """
    least = np.inf
    best = None
    # Cheapest first, and no part is wider than the cell: once cost / widest reaches the
    # best so far, no way that follows can be better.
    for path, cost in ways:
        if cost > least * widest:
            break
        tried = _tried(sheet, cell, path, settings)
        if tried is not None and cost / tried[1] < least:
            least, best = cost / tried[1], (path, tried[0])
    return best


def _tried(
    sheet: SectionView, cell: int, path: NDArray[np.int64], settings: CorrectSettings
) -> tuple[Edit, float] | None:
    """Return the edit that draws a path in a cell, and how wide a part it separates.

    None if it separates nothing.
    """
    wide, _, place = painted_along(sheet, path, settings.width)
    ours = wide & (sheet.window("cells", place) == cell)
    if not ours.any():
        return None
    draft, split = draw_membrane(sheet, ours, place, sliver=settings.sliver)
    if not split:
        return None
    sizes = [int((draft.after["cells"] == i).sum()) for i in split[cell]]
    # a length, so that what is weighed is the length of a membrane against a width
    return draft.edit("close gap", _format_gap(cell, sizes)), min(sizes) ** 0.5


def _direct(
    costs: NDArray[np.float64],
    inside: NDArray[np.bool_],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the best path between two places at the rim of a cell."""
    mask = ndi.binary_dilation(inside, np.ones((3, 3)))
    _, before = dijkstra_distance_field(
        mask,
        start,
        # off the rim, along which the way around would be free
        costs=costs + np.where(inside, 0, 1),
        cost_mode="node_times_physical",
        return_predecessors=True,
    )
    return _path(before, tuple(end))


def _ways(
    costs: NDArray[np.float64], inside: NDArray[np.bool_], here: NDArray[Any]
) -> list[tuple[NDArray[np.int64], float]]:
    """Return ways `(n, 2)` past a pixel between two places beyond a cell.

    With the cost of each, the cheapest first.
    """
    # paths end one pixel beyond the cell, in the membrane around it
    mask = ndi.binary_dilation(inside, np.ones((3, 3)))
    far, before = dijkstra_distance_field(
        mask,
        here,
        costs=costs,
        cost_mode="node_times_physical",
        return_predecessors=True,
    )
    ends = _nearest_all_around(np.where(mask & ~inside, far, np.inf), here)
    direction = _unit(ends - here)
    ways = []
    for one, other in combinations(range(len(ends)), 2):
        if direction[one] @ direction[other] < OPPOSITE:
            # both paths begin at the click, so one of them
            # turned round leads from end to end
            there, back = (_path(before, tuple(ends[i])) for i in (one, other))
            cost = float(far[tuple(ends[one])] + far[tuple(ends[other])])
            ways.append((np.concatenate([there[::-1], back[1:]]), cost))
    return sorted(ways, key=lambda way: way[1])[:TRIED]


def _nearest_all_around(
    far: NDArray[np.float64], here: NDArray[Any]
) -> NDArray[np.int64]:
    """Return the nearest place in each direction from a pixel, `(n, 2)`."""
    ends = np.argwhere(np.isfinite(far))
    # cheapest first, and `unique` gives the first of each sector
    ends = ends[np.argsort(far[tuple(ends.T)], kind="stable")]
    angle = np.arctan2(*(ends - here).T)
    sector = np.floor(angle / (2 * np.pi) * SECTORS).astype(int)
    nearest: NDArray[np.int64] = ends[np.unique(sector, return_index=True)[1]]
    return nearest


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


def _format_gap(cell: int, sizes: list[int]) -> str:
    parts = " and ".join(f"{size:,} px" for size in sizes)
    return f"separates {parts} from cell {cell}"
