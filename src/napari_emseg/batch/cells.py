"""The step membranes → profiles of whole sections; for larger ones see `blockwise`.

Profiles are kept with provisional ids of their section, in ascending order of what they
will be; ids of the stack come later, see `links`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.batch import tables, worker
from napari_emseg.batch.completion_log import Facts
from napari_emseg.batch.context import MEMBRANES, PROFILES, Context
from napari_emseg.batch.grid import Area, Part
from napari_emseg.core.intensity import padding
from napari_emseg.segmentation.section import nothing_predicted, segment_section

Missing = tuple[tuple[int, tuple[int, int, int, int] | None], ...]
"""Places, and corners of their blocks (None: all of it), that have no probabilities."""


@dataclass(frozen=True, slots=True)
class SegmentSections:
    """Find the cells of whole sections. Facts: `counts` by place."""

    context: Context
    part: Part
    missing: Missing = ()

    def run(self) -> Facts:
        """Find and store them."""
        places = range(self.part.first, self.part.stop)
        counts = {str(place): self._find(place) for place in places}
        worker.require_same(self.context)
        return {"counts": counts}

    def files(self) -> list[Path]:
        """Return what it has written."""
        return self.context.chunks(PROFILES, self.part.places)

    def _find(self, place: int) -> int:
        c = self.context
        out = c.array(PROFILES)
        gone = [area for at, area in self.missing if at == place]
        if place in c.excluded or None in gone:
            out[place] = 0
            return 0
        opened = worker.opened(c.given)
        values = probabilities(c, place)
        exclude = self._exclude(place, values)
        cells = segment_section(values, c.settings.cell_settings, exclude=exclude)
        if opened.hand is not None:
            cells = opened.hand.part(cells, c.sections[place])
        out[place] = cells
        return int(cells.max(initial=0))

    def _exclude(self, place: int, values: NDArray[Any]) -> NDArray[np.bool_] | None:
        c = self.context
        if c.weights is None:
            return nothing_predicted(values)
        return padding(worker.opened(c.given).stack.section(c.sections[place]))


def probabilities(context: Context, place: int, area: Area | None = None) -> Any:
    """Return stored probabilities `(y, x)` of a section, or those that were given."""
    area = area or (slice(0, context.shape[0]), slice(0, context.shape[1]))
    if context.weights is not None:
        return np.asarray(context.array(MEMBRANES)[(place, *area)])
    stack = worker.opened(context.given).stack
    return np.asarray(stack.data[(context.sections[place], *area)])


def as_float(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return probabilities as float32 in [0, 1]."""
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(np.nan_to_num(values), np.float32)


def ranked(
    context: Context, place: int, area: Area | None = None
) -> NDArray[np.uint32]:
    """Return the profiles `(y, x)` of a section as 1 … n, as they are stored or not."""
    area = area or (slice(0, context.shape[0]), slice(0, context.shape[1]))
    stored: NDArray[np.uint32] = np.asarray(context.array(PROFILES)[(place, *area)])
    if context.whole:
        return stored
    there = tables.read(context.table(f"ranks-{place}"))["there"]
    return np.where(stored > 0, np.searchsorted(there, stored) + 1, 0).astype(np.uint32)


def missing_of(failed: Sequence[tuple[Part, dict[str, str] | None]]) -> Missing:
    """Return what has no probabilities, from parts that failed in whole or in part.

    Parameters
    ----------
    failed
        A part with its failed places and their reasons; None if all of it failed.
    """
    found: list[tuple[int, tuple[int, int, int, int] | None]] = []
    for part, places in failed:
        if places is None:
            found += [(place, part.corners) for place in range(part.first, part.stop)]
        else:
            found += [(int(place), part.corners) for place in places]
    return tuple(sorted(found, key=str))
