"""Smaller copies of results, and results in other formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch.completion_log import Facts
from napari_emseg.batch.context import Context, Part
from napari_emseg.batch.step import StepResult
from napari_emseg.core.records import drain
from napari_emseg.io import open_stack
from napari_emseg.io.formats import OutputFormat
from napari_emseg.io.writing import iter_save
from napari_emseg.io.zarr_sink import half


@dataclass(frozen=True, slots=True)
class Downsample:
    """Store a block of a scale level, from the level before it."""

    context: Context
    result: StepResult
    level: int
    part: Part

    def run(self) -> Facts:
        """Read, shrink and write."""
        levels = self.context.levels(self.result.name)
        before, here = levels[self.level - 1], levels[self.level]
        if self.part.area is None:
            msg = f"{self.part.words} is no block"
            raise ValueError(msg)
        rows, columns = self.part.area
        place, (height, width) = self.part.first, before.shape[1:]
        # squares of 2 × 2 px never cross the border of a block: it begins at twice a
        # pixel of the smaller copy
        values: NDArray[np.generic] = np.asarray(
            before[
                place,
                2 * rows.start : min(2 * rows.stop, height),
                2 * columns.start : min(2 * columns.stop, width),
            ]
        )
        small = values[::2, ::2] if self.result.ids else half(values)
        here[place, rows, columns] = small
        return {}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(
            self.result.name, self.part.places, self.part.area, self.level
        )


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Write a result in another format. Facts: `path`."""

    source: str
    target: str
    format: OutputFormat

    def run(self) -> Facts:
        """Write it beside its name, and rename it."""
        stack = open_stack(self.source)
        target = Path(self.target)
        made = stack.metadata.get("emseg")
        from napari_emseg.core.records import Provenance

        drain(
            iter_save(
                target,
                stack,
                provenance=None if made is None else Provenance.model_validate(made),
                overwrite=True,
                format=self.format,
            )
        )
        return {"path": str(target)}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return []
