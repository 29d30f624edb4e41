"""What is larger than memory: fragments block by block, the same as of the whole.

Blocks are parts of a section `(y, x)` or of a volume `(z, y, x)`. A block is worked out
in a window around it, of which the outermost pixels, and what depends on them, count as
flooded from outside:

      window                      ~ unknown: may depend on what lies outside
    ┌~~~~~~~~~~~~~~~~~~~~~~┐      If nothing unknown reaches the block, its fragments
    │~  ┌──────────────┐  ~│      are those of the whole, pixel by pixel (`watershed`
    │~  │    block     │~ ~│      takes pixels in an order that nothing far away
    │~  └──────────────┘  ~│      changes). Else the window is made larger.
    └~~~~~~~~~~~~~~~~~~~~~~┘

A fragment is known by its place: the number, row by row, of the first pixel of its seed
in the whole. So blocks agree about it without having met. What is measured at the seams
are sums of whole numbers and largest values, and so blocks add up to the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.requirements import distance_transform, label, relabel_sequential
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.affinities import Faces
from napari_emseg.segmentation.constraints import NodeConstraints
from napari_emseg.segmentation.fragments import (
    BROAD,
    flood,
    joined,
    peaks_of,
    reach_of,
    seeds_of,
    strength_of,
)
from napari_emseg.segmentation.rag import (
    EdgeFeatures,
    RegionGraph,
    boundary_pixels,
    depths_of,
    regions_of,
    weighed,
)

Area = tuple[slice, ...]
"""Rows and columns of a section, or sections, rows and columns of a volume."""

Read = Callable[[Area], tuple[NDArray[np.float32], NDArray[np.bool_] | None]]
"""Reads probabilities of an area, and where there is no picture."""

HALO = 256
"""Of the first window tried, px."""

WIDEST = 1024
"""Of the last one, px."""

BEYOND = np.uint64(2**63)
"""Marks pixels that are too deep in membrane for any cell to reach."""


GRID = 64
"""Windows begin at multiples of it: filters compute the last few columns of a picture,
or of a vector register, in another way."""

FILTERED = 32
"""Pixels around an unknown one that smoothing and the search for maxima may change."""


@dataclass(frozen=True, slots=True)
class Window:
    """An area of a section or volume; `cut` says which sides are not the whole's own.

    They are the first along each axis, then the last ones. `shape` is that of the
    whole.
    """

    area: Area
    cut: tuple[bool, ...]
    shape: tuple[int, ...]

    @classmethod
    def around(cls, block: Area, halo: int, shape: tuple[int, ...]) -> Self:
        """Return the window of a block that reaches `halo` px beyond it, or more."""
        # the far end needs no grid: its last columns count as unknown, unless the
        # whole ends there
        grids = (1, GRID, GRID)[-len(shape) :]
        starts = [
            max(0, p.start - halo) // g * g for p, g in zip(block, grids, strict=True)
        ]
        stops = [min(n, p.stop + halo) for p, n in zip(block, shape, strict=True)]
        area = tuple(slice(*ends) for ends in zip(starts, stops, strict=True))
        before = [start > 0 for start in starts]
        after = [stop < n for stop, n in zip(stops, shape, strict=True)]
        return cls(area, (*before, *after), shape)

    @property
    def whole(self) -> bool:
        """True if it is all there is."""
        return not any(self.cut)

    def alone(self) -> Self:
        """Return the same area as if it were all there is."""
        return type(self)(self.area, (False,) * len(self.cut), self.shape)

    def inside(self, area: Area) -> Area:
        """Return an area of the whole as one of the window."""
        return tuple(
            slice(a.start - w.start, a.stop - w.start)
            for a, w in zip(area, self.area, strict=True)
        )

    def places(self, pixels: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the number in the whole, plus one, of pixels of the window."""
        sides = tuple(part.stop - part.start for part in self.area)
        at = np.unravel_index(pixels, sides)
        there = tuple(i + part.start for i, part in zip(at, self.area, strict=True))
        numbers: NDArray[np.int64] = np.ravel_multi_index(there, self.shape)
        return (numbers + 1).astype(np.uint64)

    def to_cut(self) -> NDArray[np.float32]:
        """Distance to the nearest pixel beyond a side that is cut."""
        lines = (self._along(axis) for axis in range(len(self.area)))
        nearest: NDArray[np.float32] = next(lines)
        for line in lines:
            nearest = np.minimum(nearest[..., None], line)
        return nearest

    def _along(self, axis: int) -> NDArray[np.float32]:
        """Distance along one axis to what lies beyond it, where that is cut."""
        n = self.area[axis].stop - self.area[axis].start
        line = np.full(n, np.inf, np.float32)
        steps = np.arange(1, n + 1, dtype=np.float32)
        if self.cut[axis]:
            np.minimum(line, steps, out=line)
        if self.cut[axis + len(self.area)]:
            np.minimum(line, steps[::-1], out=line)
        return line


@dataclass(frozen=True, slots=True, eq=False)
class WindowFragments:
    """Fragments of a window: labels 1 … n, where each begins, and what is unknown."""

    labels: NDArray[np.uint32]
    first: NDArray[np.int64]
    unknown: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    strength: NDArray[np.float32]
    depth: NDArray[np.float32]


def fragments_of(
    window: Window,
    membrane: NDArray[np.float32],
    exclude: NDArray[np.bool_] | None,
    threshold: float,
) -> WindowFragments:
    """Find the fragments of a window, and where they may be others in the section."""
    inside = membrane <= threshold
    if exclude is not None:
        inside &= ~exclude
        membrane = np.where(exclude, np.float32(0), membrane)
    strength = strength_of(membrane, threshold)
    depth = distance_transform(inside)
    seeds, unknown = _seeds(window, inside, depth)
    # the first pixel of seed k, row by row: by it `blocks` knows the fragment
    _, first = np.unique(seeds, return_index=True)
    first = first[1:] if (seeds == 0).any() else first
    outside = np.uint32(len(first) + 1)
    # One more marker stands for everything that may come from outside. It takes
    # part in the flooding, so what it reaches is what could be another fragment's.
    markers = np.where(unknown, outside, seeds)
    labels = flood(strength, markers, exclude)
    return WindowFragments(labels, first, labels == outside, inside, strength, depth)


def _seeds(
    window: Window, inside: NDArray[np.bool_], depth: NDArray[np.float32]
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Return seeds that are certain, numbered row by row, and what may be others."""
    peaks = peaks_of(depth)
    areas = label(inside, connectivity=1)
    if window.whole:
        return seeds_of(peaks, areas), np.zeros(inside.shape, bool)
    to_cut = window.to_cut()
    # a membrane beyond the cut side may be nearer than the nearest one that is seen
    doubtful = (depth > to_cut) if not inside.all() else np.ones(inside.shape, bool)
    near = ndi.maximum_filter(doubtful.view(np.uint8), 2 * FILTERED + 1) > 0
    near |= to_cut <= FILTERED
    unknown = (near & inside) | (to_cut <= FILTERED)
    # An area inside that gets near to what is unknown, and has no peak of its own that
    # is certain, may have one out there: then it is no seed as a whole (`seeds_of`).
    reached = np.zeros(int(areas.max()) + 1, bool)
    reached[areas[near]] = True
    seeded = np.zeros_like(reached)
    seeded[areas[peaks & ~near]] = True
    unknown |= (reached & ~seeded)[areas] & (areas > 0)
    seeds = seeds_of(peaks & ~unknown, np.where(unknown, 0, areas), seeded)
    return _without_doubtful(seeds, unknown)


def _without_doubtful(
    seeds: NDArray[np.uint32], unknown: NDArray[np.bool_]
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Seeds that touch what is unknown may be parts of others: they are unknown."""
    touched = np.zeros(int(seeds.max()) + 1, bool)
    touched[seeds[ndi.binary_dilation(unknown)]] = True
    touched[0] = False
    unknown = unknown | touched[seeds]
    kept: NDArray[np.uint32] = relabel_sequential(np.where(unknown, 0, seeds))[0]
    return kept.astype(np.uint32), unknown


@dataclass(frozen=True, slots=True, eq=False)
class Rim:
    """The pixels along one side of a block.

    Their places, membrane, if that counts, and distance to membranes; `faces` are how
    strong the boundary to the pixels before is, along the axis of the side.
    """

    places: NDArray[np.uint64]
    strength: NDArray[np.float32]
    near: NDArray[np.bool_]
    depth: NDArray[np.float32]
    faces: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class BlockFragments:
    """The fragments of a block.

    Parameters
    ----------
    block
        Where it is in the section or volume.
    places
        uint64: place of each pixel's fragment plus one, 0 where there is no
        picture; `BEYOND` is added where no cell reaches.
    fragments
        `(n,)` those that occur, ascending.
    sizes
        `(n,)` their pixels inside.
    depths
        `(n,)` distance to membranes where they are widest, px.
    ends
        `(m, 2)` pairs of fragments that meet.
    strengths
        What was measured where they meet.
    rims
        Its first pixels along each axis, then its last ones.
    unsure
        Pixels of which the widest window couldn't tell what the whole section would.
    """

    block: Area
    places: NDArray[np.uint64]
    fragments: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    depths: NDArray[np.float32]
    ends: NDArray[np.uint64]
    strengths: EdgeFeatures
    rims: tuple[Rim, ...]
    unsure: int


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Which fragments of a section are one cell: `(n,)` ascending places, `(n,)` ids.

    The id of what is no cell is 0.
    """

    fragments: NDArray[np.uint64]
    ids: NDArray[np.uint32]

    def ids_of(self, places: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the ids of places, 0 for place 0."""
        found = np.zeros(places.shape, np.int64)
        known = places > 0
        at = np.searchsorted(self.fragments, places[known])
        found[known] = self.ids[at]
        return found


def find_block(
    read: Read,
    shape: tuple[int, ...],
    block: Area,
    settings: CellSettings,
    *,
    halo: int = HALO,
    widest: int = WIDEST,
    exact: bool = True,
    faces: Callable[[Area], Faces] | None = None,
) -> BlockFragments:
    """Find the fragments of a block of a section or volume of so many px.

    Parameters
    ----------
    halo
        Of the first window; twice as wide each time as that isn't enough.
    widest
        Of the last one.
    exact
        Make windows larger until fragments are those of the whole. Else the first one
        has to do, and what is unsure isn't counted.
    faces
        Reads how strong what is between voxels is, by axis, from affinities.
    """
    # `reach` is compared with these two distances, so it must be right that far
    halo = max(halo, settings.grow + 1, BROAD + 1)
    while exact:
        window = Window.around(block, halo, shape)
        membrane, exclude = read(window.area)
        found = fragments_of(window, membrane, exclude, settings.threshold)
        unsure = int(found.unknown[window.inside(block)].sum())
        if unsure == 0 or halo >= widest or window.whole:
            break
        halo = min(2 * halo, widest)
    else:
        window, unsure = Window.around(block, halo, shape), 0
        membrane, exclude = read(window.area)
    if unsure or not exact:
        # as good as can be known: blocks may disagree about these fragments, so the
        # pixels in doubt are counted
        found = fragments_of(window.alone(), membrane, exclude, settings.threshold)
    strong = None if faces is None else faces(block)
    return _measured(window, found, block, settings, unsure, strong)


class BlockTables:
    """Decides which fragments are one cell, from blocks in the order of their places.

    Ids are those that a section would get as a whole; some may be missing. A side of a
    block is measured when the block behind it comes, and forgotten, so what waits is
    one layer of blocks, however many follow.
    """

    def __init__(self) -> None:
        self._blocks: list[BlockFragments] = []
        self._across: list[tuple[NDArray[np.uint64], EdgeFeatures]] = []
        # by axis and by the first pixel of the block that is to come behind
        self._sides: dict[tuple[int, tuple[int, ...]], Rim] = {}
        self._latest: tuple[int, ...] = ()

    def add(self, found: BlockFragments) -> None:
        """Take the next block, without its pixels.

        Raises
        ------
        ValueError
            If it doesn't lie behind those before.
        """
        starts, n = tuple(part.start for part in found.block), len(found.block)
        if starts <= self._latest:
            msg = f"the block at {starts} comes after the one at {self._latest}"
            raise ValueError(msg)
        self._latest = starts
        for axis, part in enumerate(found.block):
            # on a regular grid a side touches one block
            before = self._sides.pop((axis, starts), None)
            if before is not None:
                self._across.append(_across(before, found.rims[axis]))
            behind = (*starts[:axis], part.stop, *starts[axis + 1 :])
            self._sides[axis, behind] = found.rims[axis + n]
        # what lies before this block comes no more: there the whole ends
        self._sides = {at: rim for at, rim in self._sides.items() if at[1] > starts}
        places = np.zeros((0,) * n, np.uint64)
        self._blocks.append(replace(found, places=places, rims=()))

    def join(
        self, settings: CellSettings, said: Sequence[tuple[int, int, bool]] = ()
    ) -> Joined:
        """Return the cell of each fragment.

        Parameters
        ----------
        said
            Places of two fragments, and whether a person said that they are one cell.
        """
        known, regions = self._graph()
        a, b, same = np.array(said, np.uint64).reshape(-1, 3).T
        ends = (np.searchsorted(known, end & ~BEYOND).tolist() for end in (a, b))
        pairs = [(i, j, bool(k)) for i, j, k in zip(*ends, same, strict=True)]
        ids = joined(regions, settings, said=NodeConstraints.of(pairs))
        return Joined(known[1:], ids[1:].astype(np.uint32))

    def _graph(self) -> tuple[NDArray[np.uint64], RegionGraph]:
        """Return the fragments, 0 for none before them, and their graph."""
        blocks = self._blocks
        # ascending places are the order in which a whole section numbers its fragments
        named = (block.fragments for block in blocks)
        known = np.unique(np.concatenate([np.zeros(1, np.uint64), *named]))
        n = len(known)
        sizes, depths = np.zeros(n, np.int64), np.ones(n, np.float32)
        for block in blocks:
            which = np.searchsorted(known, block.fragments)
            sizes[which] += block.sizes
            depths[which] = np.maximum(depths[which], block.depths)
        seams = [*((b.ends, b.strengths) for b in blocks), *self._across]
        nothing = np.zeros((0, 2), np.uint64)
        both = np.concatenate([nothing, *(ends for ends, _ in seams)])
        pairs = np.searchsorted(known, both).astype(np.int64)
        key, edges = np.unique(pairs[:, 0] * n + pairs[:, 1], return_inverse=True)
        strengths = EdgeFeatures.added([some for _, some in seams], edges, len(key))
        ends = np.stack(np.divmod(key, n), axis=1)
        dimensions = len(blocks[0].block) if blocks else 2
        return known, regions_of(sizes, depths, ends, strengths, dimensions)


def paint_block(
    places: NDArray[np.uint64],
    membrane: NDArray[np.float32] | None,
    cells: Joined,
    inner: Area,
    threshold: float,
) -> NDArray[np.uint32]:
    """Return the cells of a block `(y, x)`.

    Parameters
    ----------
    places, membrane
        Of the block and of the pixels next to it. Without `membrane` cells touch, as
        those of a volume do.
    inner
        Where the block is in them.
    """
    alone = places & ~BEYOND
    some, numbers = np.unique(alone, return_inverse=True)
    # places are too large to be indices: label k stands for place `some[k]`
    some = np.concatenate([np.zeros(1, np.uint64), some])
    labels = (numbers.reshape(places.shape) + 1).astype(np.uint32)
    labels[alone == 0] = 0
    ids = cells.ids_of(some)
    found = ids[labels]
    found[(places & BEYOND) > 0] = 0
    if membrane is not None:
        strength = strength_of(membrane, threshold)
        found.ravel()[boundary_pixels(labels, strength).between(ids)] = 0
    return np.ascontiguousarray(found[inner]).astype(np.uint32)


def _across(one: Rim, other: Rim) -> tuple[NDArray[np.uint64], EdgeFeatures]:
    """Measure the seams between two blocks, as `boundary_pixels` does within one."""
    a, b = one.places & ~BEYOND, other.places & ~BEYOND
    meet = (a != b) & (a > 0) & (b > 0)
    first = one.strength > other.strength
    # the stronger pixel of each pair counts, see `EdgeFeatures.along`
    strength = np.where(first, one.strength, other.strength)[meet]
    near = np.where(first, one.near, other.near)[meet]
    opening = np.minimum(one.depth, other.depth)[meet]
    if other.faces is not None:
        strength, opening = weighed(strength, opening, other.faces[meet])
    pairs = np.sort(np.stack([a[meet], b[meet]], axis=1), axis=1)
    ends, edges = np.unique(pairs, axis=0, return_inverse=True)
    m = len(ends)
    return ends, EdgeFeatures.of_pixels(edges.ravel(), m, strength, near, opening)


def _measured(
    window: Window,
    found: WindowFragments,
    block: Area,
    settings: CellSettings,
    unsure: int,
    faces: Sequence[NDArray[np.float32]] | None = None,
) -> BlockFragments:
    """Measure what lies in a block; `faces` are strengths there, by axis."""
    at = window.inside(block)
    labels = np.ascontiguousarray(found.labels[at])
    strength = np.ascontiguousarray(found.strength[at])
    depth = np.ascontiguousarray(found.depth[at])
    reach = reach_of(found.inside)[at]
    names = np.concatenate([np.zeros(1, np.uint64), window.places(found.first)])
    seams = boundary_pixels(labels, strength)
    sizes = np.bincount(labels[found.inside[at]], minlength=len(names))
    there = np.unique(labels[labels > 0])
    places = names[labels]
    places[reach > settings.grow] |= BEYOND
    near = reach <= BROAD
    rims = tuple(
        Rim(
            np.take(places, end, axis),
            np.take(strength, end, axis),
            np.take(near, end, axis),
            np.take(depth, end, axis),
            None if faces is None else np.take(faces[axis], end, axis),
        )
        for end in (0, -1)
        for axis in range(places.ndim)
    )
    return BlockFragments(
        block=block,
        places=places,
        fragments=names[there],
        sizes=sizes[there].astype(np.int64),
        depths=depths_of(labels, depth)[there],
        ends=names[seams.ends].reshape(-1, 2),
        strengths=EdgeFeatures.along(seams, strength, near, depth, faces),
        rims=rims,
        unsure=unsure,
    )
