"""Probabilities of a volume of about isotropic voxels → cells through its sections.

Fragments, boundaries and their strength are those of a section, with a third axis: a
boundary is a face. So what joins two fragments is seen along all of it, and no profile
has to be found again in the next section.

Larger volumes are worked in blocks with a margin around (`blocks`). In three dimensions
flooding depends on what lies far away too often to make windows large enough for
fragments that are those of the whole. So where a fragment lies across a block's border,
the two blocks may draw it otherwise: it becomes two, with little membrane between, and
they are joined like any others. Which volumes are worked in blocks, and in which, is
told by their shape alone, so the result doesn't depend on the machine.
"""

from collections.abc import Collection, Generator
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Progress, Record
from napari_emseg.core.requirements import relabel_sequential
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.blocks import (
    Area,
    BlockFragments,
    Joined,
    find_block,
    join_blocks,
    paint_block,
)
from napari_emseg.segmentation.fragments import find_fragments
from napari_emseg.segmentation.linking import scratch

WHOLE = 2**24
"""Volumes of so many voxels are worked in one piece, which takes 40 bytes for each."""

BLOCK = (128, 256, 256)
"""Sections, rows and columns of a block."""

MARGIN = 48
"""Around a block, px."""


def iter_segment_volume(
    membrane: NDArray[np.float32],
    settings: CellSettings,
    *,
    absent: Collection[int] = (),
    whole: int = WHOLE,
    block: tuple[int, int, int] = BLOCK,
    margin: int = MARGIN,
) -> Generator[Record, None, NDArray[np.uint32]]:
    """Find the cells of a volume; return ids `(z, y, x)` 1, 2, …, 0 between them.

    No two cells touch within a section. Yields Progress.

    Parameters
    ----------
    membrane
        Probabilities `(z, y, x)`, NaN where there is no picture. It may be on disk.
    absent
        Sections that get no cells, though cells go on behind them: their probabilities
        are stand-ins.
    whole, block, margin
        Larger volumes are worked in blocks of so many voxels with a margin around.
    """
    if membrane.size <= whole:
        yield Progress("fragments", 0, 1)
        exclude = np.isnan(membrane)
        values = np.where(exclude, np.float32(0), membrane)
        found = find_fragments(values, settings.threshold, exclude=exclude)
        yield Progress("fragments", 1, 1)
        cells = found.cells(settings)
        cells[sorted(absent)] = 0
        numbered: NDArray[np.uint32] = relabel_sequential(cells)[0]
        return numbered
    joined, places = yield from _join_volume(membrane, settings, block, margin)
    return (yield from _paint_volume(membrane, settings, joined, places, absent))


def _join_volume(
    membrane: NDArray[np.float32],
    settings: CellSettings,
    sides: tuple[int, int, int],
    margin: int,
) -> Generator[Record, None, tuple[Joined, NDArray[np.uint64]]]:
    """Decide which fragments are one cell; return where each fragment is, too."""

    def read(window: Area) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        values = np.array(membrane[window])
        exclude = np.isnan(values)
        values[exclude] = 0
        return values, exclude

    areas = _grid(membrane.shape, sides)
    places = scratch(membrane.shape, np.uint64)
    blocks: list[BlockFragments] = []
    for done, area in enumerate(areas):
        yield Progress("fragments", done, len(areas))
        found = find_block(
            read, membrane.shape, area, settings, halo=margin, exact=False
        )
        places[area] = found.places
        # joining goes by rims and tables; the voxels stay on disk
        blocks.append(replace(found, places=np.zeros((0, 0, 0), np.uint64)))
    yield Progress("fragments", len(areas), len(areas))
    return join_blocks(blocks, settings), places


def _paint_volume(
    membrane: NDArray[np.float32],
    settings: CellSettings,
    joined: Joined,
    places: NDArray[np.uint64],
    absent: Collection[int],
) -> Generator[Record, None, NDArray[np.uint32]]:
    """Return the cells on disk, section by section, numbered without gaps."""
    cells = scratch(membrane.shape)
    n, *sides = membrane.shape
    inner = tuple(slice(0, side) for side in sides)
    for z in range(n):
        if z not in absent:
            seen = np.nan_to_num(membrane[z])
            cells[z] = paint_block(places[z], seen, joined, inner, settings.threshold)
        yield Progress("cells", z + 1, n)
    return renumber(cells, int(joined.ids.max(initial=0)))


def renumber(cells: NDArray[np.uint32], last: int) -> NDArray[np.uint32]:
    """Give ids up to `last` numbers without gaps, in place, section by section."""
    there = np.zeros(last + 1, bool)
    for section in cells:
        there[section] = True
    there[0] = False
    numbers = np.where(there, np.cumsum(there), 0).astype(np.uint32)
    for section in cells:
        section[...] = numbers[section]
    return cells


def _grid(shape: tuple[int, ...], sides: tuple[int, int, int]) -> list[Area]:
    """Return blocks that cover a volume; one that is hardly higher isn't cut in z."""
    high = shape[0] if shape[0] <= 1.5 * sides[0] else sides[0]
    parts = (
        [slice(at, min(at + side, n)) for at in range(0, n, side)]
        for n, side in zip(shape, (high, *sides[1:]), strict=True)
    )
    return list(product(*parts))
