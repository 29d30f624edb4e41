"""A table of cells, the suspicious ones first."""

import csv
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.records import Record, SectionDone
from napari_emseg.core.regions import Area
from napari_emseg.core.stack import LazyArray, VoxelSize
from napari_emseg.io.output import Output
from napari_emseg.proofreading.measurements import (
    CellMeasurements,
    ProfileTable,
    profiles_of,
)
from napari_emseg.proofreading.section_view import burn_in

TINY = 0.1
"""Cells with fewer pixels in a section than this part of the median are tiny, unless
the picture's border cuts them off."""

WEAK = 0.5
"""A membrane of a lower mean probability is weak."""

SEEN_INSIDE = 0.25
"""A cell with more membrane than this inside may be two."""

EDGE = 2
"""A cell nearer than this to the border of what is known leaves it there, px."""


@dataclass(frozen=True, slots=True)
class CellRow:
    """What was measured of a cell.

    Parameters
    ----------
    size
        Voxels.
    sections
        Number of sections that it is in, from `first` to `last`.
    boundary
        Mean probability of membrane around it; NaN if unknown.
    inner
        The strongest membrane seen inside of it; NaN if unknown.
    at
        `(z, y, x)` of a pixel of it, in its largest section.
    suspicion
        Why it is worth a look; empty if it isn't.
    """

    cell: int
    size: int
    sections: int
    first: int
    last: int
    boundary: float
    inner: float
    at: tuple[int, int, int]
    suspicion: str = ""

    def in_stack(
        self, sections: Sequence[int], corner: tuple[int, int] = (0, 0)
    ) -> Self:
        """Return a cell of a part of a stack with its places in the whole.

        Parameters
        ----------
        sections
            Of the part, in order.
        corner
            Row and column of the stack where it begins.
        """
        z, y, x = self.at
        first, last = sections[self.first], sections[self.last]
        at = sections[z], y + corner[0], x + corner[1]
        return replace(self, first=first, last=last, at=at)


def cells_table(
    cells: LazyArray,
    probabilities: LazyArray | None = None,
    *,
    corrections: LazyArray | None = None,
    sections: Collection[int] | None = None,
    linked: bool = False,
) -> Generator[Record, None, list[CellRow]]:
    """Measure all cells `(z, y, x)`; yields SectionDone, returns suspicious ones first.

    Parameters
    ----------
    probabilities
        Of membrane; NaN where nothing is known.
    corrections
        Burnt into them.
    sections
        Which; all by default.
    linked
        An id is one cell through the stack, so that one which ends in mid-stack is
        suspicious, unless it leaves the picture there.
    """
    wanted = sorted(range(int(cells.shape[0])) if sections is None else sections)
    found: dict[int, ProfileTable] = {}
    for done, z in enumerate(wanted, start=1):
        section = np.asarray(cells[z])
        grey = None if probabilities is None else np.array(probabilities[z], np.float32)
        drawn = None if corrections is None else np.asarray(corrections[z])
        found[z] = measured(section, grey, drawn=drawn)
        yield SectionDone(z, done, len(wanted))
    ids = [profiles.cells for profiles in found.values()]
    tally = CellMeasurements(
        np.unique(np.concatenate(ids)) if ids else np.zeros(0, np.uint64)
    )
    for z, profiles in found.items():
        tally.add(z, profiles)
    usual, ends = common(tally), span(tally) if linked else None
    return sorted(rows_of(tally, usual, ends), key=_most_suspicious)


def measured(
    cells: NDArray[np.unsignedinteger],
    membrane: NDArray[np.float32] | None,
    *,
    drawn: NDArray[np.uint8] | None = None,
    shape: tuple[int, int] | None = None,
    inner: Area | None = None,
    origin: tuple[int, int] = (0, 0),
) -> ProfileTable:
    """Measure a section, or a block with what is around it.

    Parameters
    ----------
    drawn
        Corrections, burnt into the membrane.
    shape
        `(y, x)` of the whole section; that of the arrays by default.
    inner, origin
        As `profiles_of`.
    """
    border = _border(cells.shape, shape or cells.shape, origin)
    if membrane is not None:
        unknown = np.isnan(membrane)
        # the end of what was predicted is like the picture's
        # border: cells are cut off there
        border |= ndi.binary_dilation(unknown, iterations=EDGE)
        if drawn is not None:
            membrane = burn_in(membrane, drawn)
        membrane = None if unknown.all() else membrane
    return profiles_of(cells, membrane, border, inner=inner, origin=origin)


def _border(
    window: tuple[int, ...], shape: tuple[int, ...], origin: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the pixels of a window that are next to the border of the section."""
    border = np.ones(window, bool)
    rows, columns = (
        slice(max(0, EDGE - first), max(0, n - EDGE - first))
        for first, n in zip(origin, shape, strict=True)
    )
    border[rows, columns] = False
    return border


def common(tally: CellMeasurements) -> float:
    """Return the median of what cells measure in a section, px."""
    return float(np.median(tally.mean_size)) if tally.cells.size else 0.0


def span(tally: CellMeasurements) -> tuple[int, int] | None:
    """Return the first and the last section with cells; None if there are none."""
    if not tally.cells.size:
        return None
    return int(tally.first.min()), int(tally.last.max())


def rows_of(
    tally: CellMeasurements, usual: float, ends: tuple[int, int] | None
) -> Iterator[CellRow]:
    """Yield the rows of cells, in the order of their ids.

    Parameters
    ----------
    usual
        `common` of all cells.
    ends
        `span` of all cells; None where they aren't linked.
    """
    boundary, mean = tally.boundary, tally.mean_size
    for k, cell in enumerate(tally.cells.tolist()):
        strength, inner = float(boundary[k]), float(tally.inner[k])
        why = []
        # a cell that is cut off by the border may be as large as any
        if mean[k] < TINY * usual and not tally.leaves[k]:
            why.append("tiny")
        if strength < WEAK:
            why.append("weak membrane")
        if inner > SEEN_INSIDE:
            why.append("membrane inside")
        if ends is not None:
            why += _loose_ends(tally, k, *ends)
        z, y, x = tally.at[k].tolist()
        yield CellRow(
            cell,
            int(tally.size[k]),
            int(tally.sections[k]),
            int(tally.first[k]),
            int(tally.last[k]),
            strength,
            inner,
            (z, y, x),
            ", ".join(why),
        )


def _loose_ends(tally: CellMeasurements, k: int, first: int, last: int) -> list[str]:
    # neurites end in mid-stack only where they leave the picture, or a link is missing
    begins = tally.first[k] > first and not tally.leaves_first[k]
    ends = tally.last[k] < last and not tally.leaves_last[k]
    if begins and ends:
        return ["begins and ends in mid-stack"]
    if ends:
        return ["ends in mid-stack"]
    return ["begins in mid-stack"] if begins else []


def _most_suspicious(row: CellRow) -> tuple[int, float, int]:
    n = len(row.suspicion.split(", ")) if row.suspicion else 0
    return -n, -np.nan_to_num(row.inner), row.cell


COLUMNS = (
    "cell",
    "voxels",
    "sections",
    "first_section",
    "last_section",
    "mean_area_nm2",
    "volume_nm3",
    "boundary_strength",
    "inner_membrane",
    "z",
    "y",
    "x",
    "worth_a_look",
)
"""`mean_area_nm2` is of the profiles in the sections that the cell is in;
`boundary_strength` the mean probability of membrane around it; `z`, `y`, `x` a pixel in
it. What is unknown stays empty."""


def write_table(
    path: Path,
    rows: Iterable[CellRow],
    *,
    voxel_size_nm: VoxelSize | None = None,
    overwrite: bool = False,
) -> Path:
    """Write measured cells, in the order of their ids; return the path.

    Raises
    ------
    OSError
        If there is such a file already, or it can't be written.
    """
    in_order = sorted(rows, key=lambda row: row.cell)
    return write_rows(path, in_order, voxel_size_nm=voxel_size_nm, overwrite=overwrite)


def write_rows(
    path: Path,
    rows: Iterable[CellRow],
    *,
    voxel_size_nm: VoxelSize | None = None,
    overwrite: bool = False,
) -> Path:
    """Write measured cells as they come; return the path.

    Raises
    ------
    OSError
        As `write_table`.
    """
    output = Output(path, overwrite=overwrite)
    with output.beginning() as part:
        with part.open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows(_values(row, voxel_size_nm) for row in rows)
        return output.finish()


def _values(row: CellRow, size: VoxelSize | None) -> tuple[object, ...]:
    area = volume = ""
    if size is not None:
        z, y, x = size
        area = f"{row.size * y * x / row.sections:.6g}"
        volume = "" if z is None else f"{row.size * z * y * x:.6g}"
    return (
        row.cell,
        row.size,
        row.sections,
        row.first,
        row.last,
        area,
        volume,
        _number(row.boundary),
        _number(row.inner),
        *row.at,
        row.suspicion,
    )


def _number(value: float) -> str:
    return "" if isnan(value) else f"{value:.4f}"
