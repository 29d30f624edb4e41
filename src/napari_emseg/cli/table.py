"""A table of the cells that were written, if it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from napari_emseg.cli.outputs import OutputTarget
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.io import open_stack, output_format, output_kind
from napari_emseg.io.output import check_output
from napari_emseg.proofreading.table import cells_table, write_table

TablePath = Annotated[
    Path | None,
    Parameter(
        name="--table",
        help="Also write a table of the cells, .csv: sections, area and volume in nm, "
        "strength of the membrane around.",
    ),
]


@dataclass(frozen=True)
class Table:
    """Where a table goes.

    Raises
    ------
    ValueError, OSError
        If it can't be written, before any work is done.
    """

    path: Path
    place: OutputTarget

    def __post_init__(self) -> None:
        kind = output_kind(self.place.format or output_format(self.place.path))
        if not kind.readable:
            msg = f"--table needs an output that can be read again; {kind.name} can't"
            raise ValueError(msg)
        if self.path.suffix.lower() != ".csv":
            msg = f"the table must end in .csv, got {self.path}"
            raise ValueError(msg)
        check_output(self.path, overwrite=self.place.overwrite)

    def write(self, membrane: LazyArray | None, *, linked: bool) -> None:
        """Measure the output's cells against probabilities of the same sections."""
        cells = open_stack(self.place.path)
        rows = run_with_progress(
            cells_table(WholeNumbers(cells), membrane, linked=linked)
        )
        write_table(
            self.path,
            rows,
            voxel_size_nm=cells.voxel_size_nm,
            overwrite=self.place.overwrite,
        )


class WholeNumbers:
    """Cells as whole numbers, also where a file holds them as float."""

    def __init__(self, stack: Stack) -> None:
        self.shape = stack.shape
        self._stack = stack
        whole = stack.dtype.kind in "iu"
        self.dtype = stack.dtype if whole else np.dtype(np.uint32)

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Index as the stack."""
        return np.asarray(self._stack.data[key]).astype(self.dtype, copy=False)


class Probabilities:
    """Some sections of probabilities, from 0 to 1 also where a file holds bytes."""

    dtype = np.dtype(np.float32)

    def __init__(self, stack: Stack, sections: Sequence[int]) -> None:
        self.shape = (len(sections), *stack.shape[1:])
        self._stack, self._sections = stack, sections

    def __getitem__(self, z: int, /) -> NDArray[np.float32]:
        """Return a section; NaN where it can't be read."""
        try:
            section = self._stack.section(self._sections[z])
        except (OSError, ValueError):
            return np.full(self.shape[1:], np.nan, np.float32)
        whole = section.dtype.kind in "iu"
        return section.astype(np.float32) / np.float32(255 if whole else 1)
