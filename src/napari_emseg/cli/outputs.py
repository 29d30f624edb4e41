"""Output files under way: what is kept when a run stops early, and said about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.cli.options import ScopeOptions
from napari_emseg.cli.printing import say
from napari_emseg.core.records import Provenance
from napari_emseg.core.sinks import PassingSink, SectionSink
from napari_emseg.core.stack import Stack
from napari_emseg.io import Ids, OutputFormat, Stored, open_sink
from napari_emseg.io.output import check_distinct, input_paths


@dataclass(frozen=True)
class OutputTarget:
    """Where results go."""

    path: Path
    format: OutputFormat | None = None
    overwrite: bool = False
    ids: Ids = "keep"
    stored: Stored = "as is"

    def open(
        self, scope: ScopeOptions, dtype: type[np.generic], made: Provenance
    ) -> SectionSink:
        """Open the output for the sections of `scope`.

        Raises
        ------
        ValueError, OSError
            As `open_sink`; also if it is the file that is being read.
        """
        check_outputs(self.path, stacks=[scope.stack])
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


class CountingSink(PassingSink):
    """Passes sections on to another sink and counts them."""

    def __init__(self, sink: SectionSink) -> None:
        super().__init__(sink)
        self.written = 0

    def write(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        super().write(z, np.asarray(section))
        self.written += 1


@contextmanager
def writing(sink: SectionSink) -> Iterator[CountingSink]:
    """Close the sink at the end; if that isn't reached, keep what is finished.

    The user is told where finished sections are. Without any, nothing is left behind.
    """
    counted = CountingSink(sink)
    try:
        yield counted
        sink.close()
    except BaseException:
        kept = sink.abort(keep=counted.written > 0)
        if kept is not None:
            n, of = counted.written, sink.shape[0]
            say(f"{n} of {of} sections were finished; they are kept in {kept}")
        raise
