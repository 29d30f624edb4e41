"""The step membranes → profiles of sections that are too large to be worked whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch import stores, worker
from napari_emseg.batch.completion_log import Facts
from napari_emseg.batch.context import (
    EMPTY,
    PLACES,
    PROFILES,
    TABLES,
    Context,
    Part,
    blocks,
)
from napari_emseg.batch.inputs import smallest_pieces
from napari_emseg.batch.membranes import as_float, probabilities
from napari_emseg.batch.tasks import Missing
from napari_emseg.core.regions import Area
from napari_emseg.proofreading.edits import MEMBRANE
from napari_emseg.proofreading.rerun import parted
from napari_emseg.segmentation.blocks import (
    WIDEST,
    BlockFragments,
    BlockTables,
    Joined,
    Rim,
    find_block,
    paint_block,
)
from napari_emseg.segmentation.rag import EdgeFeatures

FOUND = ("near", "all", "membrane_near", "membrane", "opening")
SIDES = {
    4: ("top", "left", "bottom", "right"),
    6: ("front", "top", "left", "back", "bottom", "right"),
}
"""Of a block of a section, and of a volume, as `BlockFragments.rims` has them."""


@dataclass(frozen=True, slots=True)
class ExtractFragments:
    """Find the fragments of a block. Facts: `unsure` pixels."""

    context: Context
    part: Part
    missing: Missing = ()
    padded: bool = False

    def run(self) -> Facts:
        """Find and store them."""
        c, area, place = self.context, _area(self.part), self.part.first

        def read(
            window: tuple[slice, ...],
        ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
            window = window[0], window[1]
            # the window is wider than the block: what failed in a
            # neighbouring block is hidden, too
            mask = _hidden(c, place, window, self.missing, padded=self.padded)
            values = as_float(probabilities(c, place, window))
            return values, mask

        found = find_block(read, c.shape, area, c.cell_settings)
        c.array(PLACES)[(place, *area)] = found.places
        stores.keep(_fragments_table(c, place, area), to_table(found))
        return {"unsure": found.unsure}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [
            *self.context.chunks(PLACES, self.part.places, self.part.area),
            _fragments_table(self.context, self.part.first, _area(self.part)),
        ]


@dataclass(frozen=True, slots=True)
class Agglomerate:
    """Decide which fragments of a section are one cell, from all of its blocks."""

    context: Context
    place: int

    def run(self) -> Facts:
        """Join and store."""
        c = self.context
        tables = BlockTables()
        for area in blocks(c.shape, c.settings.block):
            table = stores.read(_fragments_table(c, self.place, area))
            tables.add(from_table(area, table))
        cells = tables.join(c.cell_settings)
        joined: stores.Table = {"fragments": cells.fragments, "ids": cells.ids}
        stores.keep(c.table(f"joined-{self.place}"), joined)
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [self.context.table(f"joined-{self.place}")]


@dataclass(frozen=True, slots=True)
class WriteProfiles:
    """Store the profiles of a block, and which there are."""

    context: Context
    part: Part
    missing: Missing = ()
    padded: bool = False

    def run(self) -> Facts:
        """Paint and store."""
        c, area, place = self.context, _area(self.part), self.part.first
        joined = stores.read(c.table(f"joined-{place}"))
        # one pixel more on each side, so that seams across the block's border are seen
        around = tuple(
            slice(max(0, a.start - 1), min(n, a.stop + 1))
            for a, n in zip(area, c.shape, strict=True)
        )
        window = around[0], around[1]
        inner = tuple(
            slice(a.start - w.start, a.stop - w.start)
            for a, w in zip(area, window, strict=True)
        )
        membrane = as_float(probabilities(c, place, window))
        cells = paint_block(
            np.asarray(c.array(PLACES)[(place, *window)]),
            membrane,
            Joined(joined["fragments"], joined["ids"]),
            (inner[0], inner[1]),
            c.settings.cells.threshold,
        )
        c.array(PROFILES)[(place, *area)] = cells
        there = np.unique(cells)
        stores.keep(_present_table(c, place, area), {"there": there[there > 0]})
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [
            *self.context.chunks(PROFILES, self.part.places, self.part.area),
            _present_table(self.context, self.part.first, _area(self.part)),
        ]


@dataclass(frozen=True, slots=True)
class RelabelSequential:
    """Number the profiles of a section from 1, from all of its blocks.

    Membrane that was drawn by hand cuts them before; what that changes is kept beside
    the profiles, which stay as they are, so that this may be done any number of times.
    Facts: `counts` by place, and how many cells were `uncut`, too large for memory.
    """

    context: Context
    place: int

    def run(self) -> Facts:
        """Do it and store the numbers."""
        c = self.context
        areas = blocks(c.shape, c.settings.block)
        found = [stores.read(_present_table(c, self.place, a))["there"] for a in areas]
        # ids of a section have gaps where fragments joined; ranks
        # among those that occur have none
        there = np.unique(np.concatenate(found))
        cuts, gone, uncut = _cut_by_hand(c, self.place, found)
        new = [cuts[:, 3], np.setdiff1d(there, gone)]
        there = np.unique(np.concatenate(new)).astype(there.dtype)
        there = there[there > 0]
        stores.keep(c.table(f"ranks-{self.place}"), {"there": there, "cuts": cuts})
        return {"counts": {str(self.place): len(there)}, "uncut": uncut}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return [self.context.table(f"ranks-{self.place}")]


def ranked(
    context: Context, place: int, area: Area | None = None
) -> NDArray[np.uint32]:
    """Return the profiles `(y, x)` of a section as 1 … n, as they are stored or not."""
    area = area or (slice(0, context.shape[0]), slice(0, context.shape[1]))
    stored: NDArray[np.uint32] = np.asarray(context.array(PROFILES)[(place, *area)])
    if context.whole:
        # whole sections were numbered without gaps by `segment_section`
        return stored
    ranks = stores.read(context.table(f"ranks-{place}"))
    there = ranks["there"]
    # a batch that was begun by an earlier version has none
    cuts = ranks.get("cuts", np.zeros((0, 4), np.int64))
    rows, columns = area
    within = (cuts[:, 0] >= rows.start) & (cuts[:, 0] < rows.stop)
    within &= (cuts[:, 2] > columns.start) & (cuts[:, 1] < columns.stop)
    for y, start, stop, cell in cuts[within] - [rows.start, *[columns.start] * 2, 0]:
        stored[y, max(0, start) : stop] = cell
    return np.where(stored > 0, np.searchsorted(there, stored) + 1, 0).astype(np.uint32)


def _cut_by_hand(
    c: Context, place: int, found: Sequence[NDArray[np.uint32]]
) -> tuple[NDArray[np.int64], list[int], int]:
    """Return what membrane drawn by hand changes of the profiles of a section.

    Parameters
    ----------
    found
        Profiles in each block.

    Returns
    -------
    `(n, 4)` row, first and last column + 1, and profile there; profiles of which
    nothing is left; how many profiles lie in too many blocks to be cut.
    """
    gone: list[int] = []
    runs, uncut = [np.zeros((0, 4), np.int64)], 0
    hand, z = worker.opened(c.given).hand, c.sections[place]
    if hand is None:
        return runs[0], gone, uncut
    said = hand.corrections(z)
    drawn = said == MEMBRANE
    if not drawn.any():
        return runs[0], gone, uncut
    old = hand.project.section("cells", z)
    smallest = smallest_pieces(c.cell_settings.minimum_size)
    areas, profiles = list(blocks(c.shape, c.settings.block)), c.array(PROFILES)
    touched = {
        int(cell)
        for area in areas
        if drawn[area].any()
        for cell in np.unique(np.asarray(profiles[(place, *area)])[drawn[area]])
    }
    next_id = max(int(cells.max(initial=0)) for cells in found) + 1
    for cell in sorted(touched - {0}):
        own = [a for a, cells in zip(areas, found, strict=True) if cell in cells]
        box = _around(own)
        if prod(a.stop - a.start for a in box) > (c.settings.block + 2 * WIDEST) ** 2:
            uncut += 1
            continue
        stored = np.asarray(profiles[(place, *box)])
        before = np.where(stored == cell, stored, np.uint32(0))
        after, next_id = parted(before, old[box], said[box], next_id, smallest)
        runs.append(_runs(before, after, box))
        gone += [] if (after == cell).any() else [cell]
    return np.concatenate(runs), gone, uncut


def _around(areas: Sequence[Area]) -> Area:
    """Return the rectangle that holds some others."""
    rows, columns = (
        slice(min(a[k].start for a in areas), max(a[k].stop for a in areas))
        for k in (0, 1)
    )
    return rows, columns


def _runs(
    before: NDArray[np.uint32], after: NDArray[np.uint32], area: Area
) -> NDArray[np.int64]:
    """Return rows, first and last columns + 1, and values of what has changed."""
    # behind each row nothing has changed, so no run goes on in the next
    value = np.full((before.shape[0], before.shape[1] + 1), -1, np.int64)
    value[:, :-1] = np.where(before == after, -1, after.astype(np.int64))
    flat = value.ravel()
    ends = np.flatnonzero(np.diff(flat, prepend=-1, append=-1))
    starts, stops = ends[:-1], ends[1:]
    kept = flat[starts] >= 0
    y, x = np.divmod(starts[kept], value.shape[1])
    length = stops[kept] - starts[kept]
    rows, columns = area
    first = x + columns.start
    return np.stack([y + rows.start, first, first + length, flat[starts[kept]]], axis=1)


def _hidden(
    c: Context, place: int, window: Area, missing: Missing, *, padded: bool
) -> NDArray[np.bool_] | None:
    """Return where there is no picture, or what failed, in a window; None: nowhere."""
    mask = np.zeros([w.stop - w.start for w in window], bool)
    if padded:
        mask |= np.asarray(c.array(EMPTY)[(place, *window)])
    for at, corners in missing:
        if at == place and corners is not None:
            top, left, bottom, right = corners
            rows, columns = window
            mask[
                max(0, top - rows.start) : max(0, bottom - rows.start),
                max(0, left - columns.start) : max(0, right - columns.start),
            ] = True
    return mask if mask.any() else None


def _area(part: Part) -> Area:
    area = part.area
    if area is None:
        msg = f"{part.words} is no block"
        raise ValueError(msg)
    return area


def _fragments_table(c: Context, place: int, area: Area) -> Any:
    return c.path(TABLES) / f"fragments-{place}-{area[0].start}-{area[1].start}.npz"


def _present_table(c: Context, place: int, area: Area) -> Any:
    return c.path(TABLES) / f"present-{place}-{area[0].start}-{area[1].start}.npz"


def to_table(found: BlockFragments) -> stores.Table:
    """Return what joining needs of a block, to be stored."""
    table = {
        "fragments": found.fragments,
        "sizes": found.sizes,
        "depths": found.depths,
        "ends": found.ends,
        **{f"seam_{name}": getattr(found.strengths, name) for name in FOUND},
    }
    for name, rim in zip(SIDES[len(found.rims)], found.rims, strict=True):
        table |= {f"{name}_places": rim.places, f"{name}_strength": rim.strength}
        table |= {f"{name}_near": rim.near, f"{name}_depth": rim.depth}
        if rim.faces is not None:
            table[f"{name}_faces"] = rim.faces
    return table


def from_table(area: tuple[slice, ...], table: stores.Table) -> BlockFragments:
    """Return what was stored of a block."""
    rims = tuple(_rim(table, side) for side in SIDES[2 * len(area)])
    return BlockFragments(
        block=area,
        # joining goes by rims and tables; the pixels stay in their Zarr
        places=np.zeros((0,) * len(area), np.uint64),
        fragments=table["fragments"],
        sizes=table["sizes"],
        depths=table["depths"],
        ends=table["ends"],
        strengths=EdgeFeatures(*(table[f"seam_{name}"] for name in FOUND)),
        rims=rims,
        unsure=0,
    )


def _rim(table: stores.Table, side: str) -> Rim:
    return Rim(
        places=table[f"{side}_places"],
        strength=table[f"{side}_strength"],
        near=table[f"{side}_near"],
        depth=table[f"{side}_depth"],
        faces=table.get(f"{side}_faces"),
    )
