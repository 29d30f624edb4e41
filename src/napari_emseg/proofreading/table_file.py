"""The table of cells as a CSV file, with lengths in nm where they are known."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from math import isnan
from pathlib import Path

from napari_emseg.core.stack import VoxelSize
from napari_emseg.io.output import Output
from napari_emseg.proofreading.table import CellRow

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
