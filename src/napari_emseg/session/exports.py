"""What a stack at work has given, as generators that write it for other programs."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Provenance, Record
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import Stack
from napari_emseg.io import Ids, OutputFormat, Stored, iter_save
from napari_emseg.proofreading.table import cells_table, write_table
from napari_emseg.session.stack_state import StackState

if TYPE_CHECKING:
    from napari_emseg.segmentation.meshes import MeshFormat


@dataclass(frozen=True, slots=True)
class Target:
    """Where a result goes; `with_image` puts the stack itself beside the cells."""

    path: Path
    format: OutputFormat
    ids: Ids = "keep"
    stored: Stored = "as is"
    with_image: bool = False


@dataclass(frozen=True, slots=True)
class Meshes:
    """A folder of surfaces, a file for each of the largest cells."""

    format: MeshFormat = "ply"
    largest: int = 100


def saving_membranes(
    source: StackState, target: Target
) -> Generator[Record, None, Path]:
    """Write the probabilities of membrane; 0 where nothing was predicted.

    Raises
    ------
    ValueError
        If there are none, or as `iter_save`.
    OSError
        As `iter_save`. What exists is replaced: a dialog has asked.
    """
    results = source.results
    if not results.predicted:
        msg = f"{source.name} has no membranes yet; press Run in 2 Membranes"
        raise ValueError(msg)
    made = results.membrane_provenance or Provenance(kind="membrane")
    membranes = _beside(source, results.probabilities, "membranes")
    return _saving_probabilities(membranes, made, target)


def saving_class(
    source: StackState, name: str, target: Target
) -> Generator[Record, None, Path]:
    """Write the probabilities of a further class; 0 where nothing was predicted.

    Raises
    ------
    ValueError
        If there are none, or as `iter_save`.
    OSError
        As `iter_save`. What exists is replaced: a dialog has asked.
    """
    results = source.results
    if name not in results.classes:
        msg = f"{source.name} has no {name} yet; press Run in 2 Membranes"
        raise ValueError(msg)
    values = _beside(source, results.of_class(name), name)
    return _saving_probabilities(values, results.class_provenance[name], target)


def _saving_probabilities(
    values: Stack, made: Provenance, target: Target
) -> Generator[Record, None, Path]:
    return iter_save(
        target.path,
        values,
        provenance=made,
        overwrite=True,
        format=target.format,
        stored=target.stored,
    )


def saving_cells(
    source: StackState, settings: CellSettings, target: Target
) -> Generator[Record, None, Path]:
    """Write the cells as they are now, with all hand work.

    Raises
    ------
    ValueError
        If there are none, ids don't fit, or as `iter_save`.
    OSError
        As `iter_save`. What exists is replaced: a dialog has asked.
    """
    cells = _cells(source)
    made = source.cells_provenance(settings, len(source.results.segmented))
    if target.with_image:
        from napari_emseg.io.writing import iter_save_labelled

        return iter_save_labelled(
            target.path,
            source.stack,
            cells,
            provenance=made,
            overwrite=True,
            format=target.format,
        )
    return iter_save(
        target.path,
        cells,
        provenance=made,
        overwrite=True,
        format=target.format,
        ids=target.ids,
    )


def saving_table(source: StackState, path: Path) -> Generator[Record, None, Path]:
    """Measure all cells and write them as a CSV table.

    Raises
    ------
    ValueError, OSError
        As `saving_cells`.
    """
    return _measuring(source, _cells(source), path)


def saving_surfaces(
    source: StackState, meshes: Meshes, folder: Path
) -> Generator[Record, None, Path]:
    """Write the surfaces of the largest cells, as they are now.

    Raises
    ------
    ValueError
        If there are no cells, they aren't linked through the stack, or as
        `saving_meshes`.
    OSError
        As `saving_meshes`.
    """
    # takes its time, which opening the window needn't wait for
    from napari_emseg.segmentation.meshes import saving_meshes

    cells = _linked_cells(source)
    return saving_meshes(cells, folder, largest=meshes.largest, format=meshes.format)


def iter_cell_surface(
    source: StackState, cell: int
) -> Generator[Record, None, tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return the surface of a cell as it is now; see `iter_surface`.

    Raises
    ------
    ValueError
        If there are no cells, they aren't linked, or there is no such cell.
    """
    from napari_emseg.segmentation.meshes import iter_surface

    return iter_surface(_linked_cells(source), cell)


def _linked_cells(source: StackState) -> Stack:
    cells = _cells(source)
    if source.stack.shape[0] == 1:
        msg = f"{source.name} is one section; surfaces need several"
        raise ValueError(msg)
    if not source.results.linked:
        msg = (
            f"the cells of {source.name} aren't linked through the stack, so meshes "
            "would be slices; tick Link sections in 3 Cells, and press Run"
        )
        raise ValueError(msg)
    return cells


def _measuring(
    source: StackState, cells: Stack, path: Path
) -> Generator[Record, None, Path]:
    results = source.results
    rows = yield from cells_table(
        cells.data,
        results.probabilities if results.predicted else None,
        corrections=results.corrections,
        sections=sorted(results.segmented) or None,
        linked=results.linked,
    )
    return write_table(
        path, rows, voxel_size_nm=source.stack.voxel_size_nm, overwrite=True
    )


def _cells(source: StackState) -> Stack:
    """Return the cells, with what waits to be renamed written into them."""
    results = source.results
    if not results.segmented and not source.editor.begun:
        msg = f"{source.name} has no cells yet; press Run in 3 Cells"
        raise ValueError(msg)
    source.editor.linked.settle_all()
    return _beside(source, results.cells, "cells")


def _beside(source: StackState, values: object, what: str) -> Stack:
    stack = source.stack
    return Stack(
        values,  # type: ignore[arg-type]
        name=f"{stack.name}-{what}",
        voxel_size_nm=stack.voxel_size_nm,
        source=stack.source,
        origin_nm=stack.origin_nm,
    )
