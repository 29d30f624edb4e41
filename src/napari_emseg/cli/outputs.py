"""Output files under way: what is kept when a run stops early, and said about it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_emseg.cli.options import ScopeOptions
from napari_emseg.cli.printing import say
from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import CountingSink, Kept, SectionSink, keep_finished
from napari_emseg.core.stack import Stack
from napari_emseg.io import (
    Ids,
    OutputFormat,
    Stored,
    open_sink,
    output_format,
    output_kind,
)
from napari_emseg.io.ids import needs_coding
from napari_emseg.io.output import check_distinct, input_paths, waiting_path


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
