"""Output files under way: what is kept when a run stops early, and said about it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray

from napari_emseg.cli.options import ScopeOptions
from napari_emseg.cli.printing import say
from napari_emseg.cli.progress import run_with_progress
from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import CountingSink, Kept, SectionSink, keep_finished
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.io import (
    Ids,
    OutputFormat,
    Stored,
    open_sink,
    open_stack,
    output_format,
    output_kind,
)
from napari_emseg.io.output import (
    check_distinct,
    check_output,
    input_paths,
    waiting_path,
)
from napari_emseg.io.stored import needs_coding
from napari_emseg.proofreading.table import cells_table, write_table


@dataclass(frozen=True)
class OutputTarget:
    """Where results go."""

    path: Path
    format: OutputFormat | None = None
    overwrite: bool = False
    ids: Ids = "keep"
    stored: Stored = "as is"

    def paths(self, dtype: type[np.generic]) -> list[Path]:
        """Return all that is written for values of a type, also on the way."""
        kind = output_kind(self.format or output_format(self.path))
        coded = needs_coding(kind, np.dtype(dtype))
        return [self.path, *([waiting_path(self.path)] if coded else [])]

    def open(
        self, scope: ScopeOptions, dtype: type[np.generic], made: Provenance
    ) -> SectionSink:
        """Open the output for the sections of `scope`.

        Raises
        ------
        ValueError, OSError
            As `open_sink`; also if it is the file that is being read.
        """
        check_outputs(*self.paths(dtype), stacks=[scope.stack])
        return open_sink(
            self.path,
            scope.shape,
            dtype,
            voxel_size_nm=scope.stack.voxel_size_nm,
            provenance=made.model_copy(
                update={"settings": made.settings | scope.words}
            ),
            overwrite=self.overwrite,
            format=self.format,
            ids=self.ids,
            stored=self.stored,
            origin_nm=scope.stack.corner_nm(
                scope.sections[0], *(part.start for part in scope.region)
            ),
        )


def check_outputs(
    *outputs: Path | None, stacks: Sequence[Stack] = (), files: Sequence[Path] = ()
) -> None:
    """Check before any work that a command replaces neither its inputs nor a result.

    Parameters
    ----------
    outputs
        All that it writes.
    stacks, files
        All that it reads: stacks, and weights or projects.

    Raises
    ------
    ValueError
        As `check_distinct`.
    """
    read = [path for stack in stacks for path in input_paths(stack)]
    check_distinct([p for p in outputs if p is not None], [*read, *files])


def say_kept(kept: Kept) -> None:
    """Tell where finished sections are when a run has stopped early."""
    say(
        f"{kept.sections} of {kept.total} sections were finished; they are kept in "
        f"{kept.part}"
    )


def writing(sink: SectionSink) -> AbstractContextManager[CountingSink]:
    """Close the sink at the end; if that isn't reached, keep what is finished.

    The user is told where finished sections are. Without any, nothing is left behind.
    """
    return keep_finished(sink, say_kept)


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

    def write(
        self, membrane: LazyArray | None, scope: ScopeOptions, *, linked: bool
    ) -> None:
        """Measure the output's cells against probabilities of the same sections.

        Places are those in the stack, not in the output.
        """
        cells = open_stack(self.place.path)
        corner = scope.region[0].start, scope.region[1].start
        rows = run_with_progress(
            cells_table(WholeNumbers(cells), membrane, linked=linked)
        )
        write_table(
            self.path,
            (row.in_stack(scope.sections, corner) for row in rows),
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
