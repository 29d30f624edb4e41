"""What is measured of cells, in columns: blocks add up to profiles, these to cells."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.regions import Area
from napari_emseg.proofreading.section_view import BAND

DEEP = BAND + 4
"""Inside is farther than this from the outline, px: beyond the membrane around a cell
that it has grown over."""

HALO = 64
"""What a block must be seen with around it, px; what is deeper may seem deeper yet."""


@dataclass(frozen=True, slots=True, eq=False)
class ProfileTable:
    """What is seen of cells in a section or a block of it, a line each, by their ids.

    Parameters
    ----------
    cells, size
        Ids, ascending, and pixels of each.
    around, rim
        Membrane just outside of the outline, summed over so many pixels of it.
    inner
        The strongest membrane deep inside; NaN if unknown.
    depth, y, x
        Of the pixel that is farthest from the outline.
    leaves
        True where it leaves what is known of the section.
    """

    cells: NDArray[np.uint64]
    size: NDArray[np.int64]
    around: NDArray[np.float64]
    rim: NDArray[np.int64]
    inner: NDArray[np.float64]
    depth: NDArray[np.float64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    leaves: NDArray[np.bool_]


def profiles_of(
    cells: NDArray[np.unsignedinteger],
    membrane: NDArray[np.float32] | None,
    border: NDArray[np.bool_],
    *,
    inner: Area | None = None,
    origin: tuple[int, int] = (0, 0),
) -> ProfileTable:
    """Measure the cells of a section, or of a block with `HALO` px around it.

    Parameters
    ----------
    cells, membrane, border
        Ids, probabilities (NaN: unknown), and where cells leave the picture, `(y, x)`.
    inner
        Of these arrays what counts: the block; all by default.
    origin
        Row and column of the arrays' first pixel in the section.
    """
    area = inner or (slice(0, cells.shape[0]), slice(0, cells.shape[1]))
    ids, inverse, sizes = np.unique(
        cells[area], return_inverse=True, return_counts=True
    )
    index, n = inverse.reshape(cells[area].shape), np.arange(ids.size)
    within = _within(cells)
    # distances and filters see the halo, sums count the
    # block alone: blocks can be added up
    depth = ndi.distance_transform_edt(within)[area]
    deepest = np.array(ndi.maximum_position(depth, index, n), np.int64).reshape(-1, 2)
    around, rim = _around((cells > 0) & ~within, area, index, membrane, ids.size)
    known = ids > 0
    y, x = (deepest + [o + a.start for o, a in zip(origin, area, strict=True)]).T
    return ProfileTable(
        cells=ids[known].astype(np.uint64),
        size=sizes[known].astype(np.int64),
        around=around[known],
        rim=rim[known],
        inner=_inner(index, membrane, area, depth > DEEP, ids.size)[known],
        depth=depth[tuple(deepest.T)][known],
        y=y[known],
        x=x[known],
        leaves=np.isin(ids, np.unique(cells[area][border[area]]))[known],
    )


def _within(cells: NDArray[np.unsignedinteger]) -> NDArray[np.bool_]:
    """Return pixels of cells whose 4-neighbours are the same cell."""
    # equal extremes among the 4-neighbours: all of them are this cell
    low = ndi.minimum_filter(cells, footprint=ndi.generate_binary_structure(2, 1))
    high = ndi.maximum_filter(cells, footprint=ndi.generate_binary_structure(2, 1))
    return np.asarray((low == high) & (cells > 0))


def _around(
    outline: NDArray[np.bool_],
    area: Area,
    index: NDArray[np.int64],
    membrane: NDArray[np.float32] | None,
    n: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return for each cell the sum of membrane just outside of it, and over how many.

    The strongest membrane within 2 px of an outline's pixel counts.
    """
    if membrane is None:
        return np.zeros(n), np.zeros(n, np.int64)
    unknown = ndi.maximum_filter(np.isnan(membrane), 5)
    near = ndi.maximum_filter(np.nan_to_num(membrane, nan=0.0), 5)[area]
    seen = (outline & ~unknown)[area]
    which = index[seen]
    total = np.bincount(which, near[seen], n).astype(np.float64)
    return total, np.bincount(which, minlength=n)


def _inner(
    index: NDArray[np.int64],
    membrane: NDArray[np.float32] | None,
    area: Area,
    deep: NDArray[np.bool_],
    n: int,
) -> NDArray[np.float64]:
    """Return the strongest membrane deep inside of each cell; NaN if unknown."""
    if membrane is None:
        return np.full(n, np.nan)
    smooth = ndi.gaussian_filter(np.nan_to_num(membrane, nan=0.0), 1.5)[area]
    seen = np.where(deep, smooth, np.float32(0))
    return np.asarray(ndi.maximum(seen, index, np.arange(n)), np.float64)


def joined(blocks: Sequence[ProfileTable]) -> ProfileTable:
    """Return the profiles of a section from those of its blocks."""
    if len(blocks) == 1:
        return blocks[0]
    # a cell that lies in several blocks has a line of each, added up below by its id
    columns = {
        field.name: np.concatenate([getattr(block, field.name) for block in blocks])
        for field in fields(ProfileTable)
    }
    cells, where = np.unique(columns["cells"], return_inverse=True)
    n = cells.size
    # the deepest of each, the first of them if there are several
    order = np.lexsort((columns["x"], columns["y"], -columns["depth"], where))
    first = order[np.searchsorted(where[order], np.arange(n))]
    inner = np.full(n, np.nan)
    np.fmax.at(inner, where, columns["inner"])
    leaves = np.zeros(n, bool)
    np.logical_or.at(leaves, where, columns["leaves"])
    return ProfileTable(
        cells=cells,
        size=_summed(where, columns["size"], n).astype(np.int64),
        around=_summed(where, columns["around"], n),
        rim=_summed(where, columns["rim"], n).astype(np.int64),
        inner=inner,
        depth=columns["depth"][first],
        y=columns["y"][first],
        x=columns["x"][first],
        leaves=leaves,
    )


def _summed(
    where: NDArray[np.intp], values: NDArray[np.generic], n: int
) -> NDArray[np.float64]:
    return np.bincount(where, values, n).astype(np.float64)


class CellMeasurements:
    """Adds profiles up to cells, section by section from the first to the last.

    Parameters
    ----------
    cells
        All ids that come, ascending.
    """

    def __init__(self, cells: NDArray[np.uint64]) -> None:
        n = cells.size
        self.cells = cells
        self.size, self.sections = np.zeros(n, np.int64), np.zeros(n, np.int64)
        # one number for each of `cells`; `first` -1: not seen yet; `at` is `(z, y, x)`
        self.first, self.last = np.full(n, -1, np.int64), np.full(n, -1, np.int64)
        self.around, self.rim = np.zeros(n), np.zeros(n, np.int64)
        self.inner = np.full(n, np.nan)
        self.largest, self.at = np.zeros(n, np.int64), np.zeros((n, 3), np.int64)
        self.leaves = np.zeros(n, bool)
        self.leaves_first, self.leaves_last = np.zeros(n, bool), np.zeros(n, bool)

    def add(self, z: int, profiles: ProfileTable) -> None:
        """Add the profiles of section `z`, of which some may be other cells'."""
        # k: which of `cells` a profile is, and each at most once,
        # so that `+=` needs no `add.at`
        k = np.searchsorted(self.cells, profiles.cells)
        mine = k < self.cells.size
        mine[mine] = self.cells[k[mine]] == profiles.cells[mine]
        k, p = k[mine], _only(profiles, mine)
        new = k[self.first[k] < 0]
        self.first[new] = z
        self.size[k] += p.size
        self.sections[k] += 1
        self.last[k] = z
        self.around[k] += p.around
        self.rim[k] += p.rim
        self.inner[k] = np.fmax(self.inner[k], p.inner)
        self.leaves[k] |= p.leaves
        self.leaves_last[k] = p.leaves
        self.leaves_first[new] = p.leaves[self.first[k] == z]
        larger = p.size > self.largest[k]
        self.largest[k[larger]] = p.size[larger]
        places = np.stack([np.full(p.y.size, z), p.y, p.x], axis=-1)
        self.at[k[larger]] = places[larger]

    @property
    def boundary(self) -> NDArray[np.float64]:
        """Mean membrane around each; NaN if unknown."""
        mean = np.full(self.cells.size, np.nan)
        np.divide(self.around, self.rim, out=mean, where=self.rim > 0)
        return mean

    @property
    def mean_size(self) -> NDArray[np.float64]:
        """Pixels in a section, of those that each is in."""
        mean: NDArray[np.float64] = self.size / np.maximum(self.sections, 1)
        return mean


def _only(profiles: ProfileTable, which: NDArray[np.bool_]) -> ProfileTable:
    columns = {f.name: getattr(profiles, f.name)[which] for f in fields(ProfileTable)}
    return ProfileTable(**columns)
