"""Sections larger than memory: fragments block by block, the same as of the whole.

A block is worked out in a window around it, of which the outermost pixels, and what
depends on them, count as flooded from outside:

      window                      ~ unknown: may depend on what lies outside
    ┌~~~~~~~~~~~~~~~~~~~~~~┐      If nothing unknown reaches the block, its fragments
    │~  ┌──────────────┐  ~│      are those of the whole section, pixel by pixel
    │~  │    block     │~ ~│      (`watershed` takes pixels in an order that nothing
    │~  └──────────────┘  ~│      far away changes). Else the window is made larger.
    └~~~~~~~~~~~~~~~~~~~~~~┘

A fragment is known by its place: the number, row by row, of the first pixel of its seed
in the section. So blocks agree about it without having met. What is measured at the
seams are sums of whole numbers and largest values, and so blocks add up to the section.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.fragments import BROAD, joined, reach_of, strength_of
from napari_emseg.segmentation.rag import (
    EdgeFeatures,
    RegionGraph,
    boundary_pixels,
    depths_of,
    regions_of,
)
from napari_emseg.segmentation.windows import (
    Area,
    Window,
    WindowFragments,
    fragments_of,
)

Read = Callable[[Area], tuple[NDArray[np.float32], NDArray[np.bool_] | None]]
"""Reads probabilities `(y, x)` of an area, and where there is no picture."""

HALO = 256
"""Of the first window tried, px."""

WIDEST = 1024
"""Of the last one, px."""

BEYOND = np.uint64(2**63)
"""Marks pixels that are too deep in membrane for any cell to reach."""


@dataclass(frozen=True, slots=True, eq=False)
class Rim:
    """The pixels along one side of a block.

    Their places, membrane, if that counts, and distance to membranes.
    """

    places: NDArray[np.uint64]
    strength: NDArray[np.float32]
    near: NDArray[np.bool_]
    depth: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class BlockFragments:
    """The fragments of a block.

    Parameters
    ----------
    block
        Rows and columns in the section.
    places
        `(y, x)` uint64: place of each pixel's fragment plus one, 0 where there is no
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
        Its first row and column, its last row and column.
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
    rims: tuple[Rim, Rim, Rim, Rim]
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
    shape: tuple[int, int],
    block: Area,
    settings: CellSettings,
    *,
    halo: int = HALO,
    widest: int = WIDEST,
) -> BlockFragments:
    """Find the fragments of a block of a section of `(y, x)` px.

    Parameters
    ----------
    halo
        Of the first window; twice as wide each time as that isn't enough.
    widest
        Of the last one.
    """
    # `reach` is compared with these two distances, so it must be right that far
    halo = max(halo, settings.grow + 1, BROAD + 1)
    while True:
        window = Window.around(block, halo, shape)
        membrane, exclude = read(window.area)
        found = fragments_of(window, membrane, exclude, settings.threshold)
        unsure = int(found.unknown[window.inside(block)].sum())
        if unsure == 0 or halo >= widest or window.whole:
            break
        halo = min(2 * halo, widest)
    if unsure:
        # as good as can be known: blocks may disagree about these fragments, so the
        # pixels in doubt are counted
        found = fragments_of(window.alone(), membrane, exclude, settings.threshold)
    return _measured(window, found, block, settings, unsure)


def join_blocks(blocks: Sequence[BlockFragments], settings: CellSettings) -> Joined:
    """Decide which fragments of a section are one cell, from all of its blocks.

    Ids are those that the section would get as a whole; some may be missing.
    """
    known, regions = _graph(blocks)
    ids = joined(regions, settings)
    return Joined(known[1:], ids[1:].astype(np.uint32))


def paint_block(
    places: NDArray[np.uint64],
    membrane: NDArray[np.float32],
    cells: Joined,
    inner: Area,
    threshold: float,
) -> NDArray[np.uint32]:
    """Return the cells of a block `(y, x)`.

    Parameters
    ----------
    places, membrane
        Of the block and of the pixels next to it.
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
    strength = strength_of(membrane, threshold)
    found.ravel()[boundary_pixels(labels, strength).between(ids)] = 0
    return np.ascontiguousarray(found[inner]).astype(np.uint32)


def _graph(blocks: Sequence[BlockFragments]) -> tuple[NDArray[np.uint64], RegionGraph]:
    """Return the fragments of a section, 0 for none before them, and their graph."""
    # ascending places are the order in which a whole section numbers its fragments
    named = (block.fragments for block in blocks)
    known = np.unique(np.concatenate([np.zeros(1, np.uint64), *named]))
    n = len(known)
    sizes, depths = np.zeros(n, np.int64), np.ones(n, np.float32)
    for block in blocks:
        which = np.searchsorted(known, block.fragments)
        sizes[which] += block.sizes
        depths[which] = np.maximum(depths[which], block.depths)
    seams = [(b.ends, b.strengths) for b in blocks]
    seams += [_across(a, b) for a, b in _neighbours(blocks)]
    both = np.concatenate([np.zeros((0, 2), np.uint64), *(ends for ends, _ in seams)])
    pairs = np.searchsorted(known, both).astype(np.int64)
    key, edges = np.unique(pairs[:, 0] * n + pairs[:, 1], return_inverse=True)
    strengths = EdgeFeatures.added([some for _, some in seams], edges, len(key))
    ends = np.stack(np.divmod(key, n), axis=1)
    return known, regions_of(sizes, depths, ends, strengths)


def _neighbours(blocks: Sequence[BlockFragments]) -> Iterator[tuple[Rim, Rim]]:
    """Yield the sides at which blocks touch."""
    at = {(b.block[0].start, b.block[1].start): b for b in blocks}
    for block in blocks:
        rows, columns = block.block
        # on a regular grid a side touches one block, and looking down and right only
        # yields each pair once
        below, beside = (rows.stop, columns.start), (rows.start, columns.stop)
        if below in at:
            yield block.rims[2], at[below].rims[0]
        if beside in at:
            yield block.rims[3], at[beside].rims[1]


def _across(one: Rim, other: Rim) -> tuple[NDArray[np.uint64], EdgeFeatures]:
    """Measure the seams between two blocks, as `boundary_pixels` does within one."""
    a, b = one.places & ~BEYOND, other.places & ~BEYOND
    meet = (a != b) & (a > 0) & (b > 0)
    first = one.strength > other.strength
    # the stronger pixel of each pair counts, see `EdgeFeatures.along`
    strength = np.where(first, one.strength, other.strength)[meet]
    near = np.where(first, one.near, other.near)[meet]
    opening = np.minimum(one.depth, other.depth)[meet]
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
) -> BlockFragments:
    """Measure what lies in a block."""
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
    sides = ((0, ...), (..., 0), (-1, ...), (..., -1))
    top, left, bottom, right = (
        Rim(
            places[side].copy(),
            strength[side].copy(),
            near[side].copy(),
            depth[side].copy(),
        )
        for side in sides
    )
    return BlockFragments(
        block=block,
        places=places,
        fragments=names[there],
        sizes=sizes[there].astype(np.int64),
        depths=depths_of(labels, depth)[there],
        ends=names[seams.ends].reshape(-1, 2),
        strengths=EdgeFeatures.along(seams, strength, near, depth),
        rims=(top, left, bottom, right),
        unsure=unsure,
    )
