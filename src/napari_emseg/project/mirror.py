"""The linked pictures as they are on the disk: the same edits, by the same rules."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.project.state import Renaming, ReviewState
from napari_emseg.proofreading.edits import IdChange, LabelArray
from napari_emseg.proofreading.linked import LinkedLabels


class Nothing:
    """Zeros `(z, y, x)` that stay so: membranes follow from the rest."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.uint8)

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]:
        empty: NDArray[np.uint8] = np.broadcast_to(np.uint8(0), self.shape)[key]
        return empty

    def __setitem__(self, key: Any, value: Any, /) -> None:
        pass


class Mirror(LinkedLabels):
    """Cells and corrections in files, and how far ids are written into each section."""

    def __init__(
        self, cells: LabelArray, corrections: LabelArray, review: ReviewState
    ) -> None:
        z, y, x = cells.shape
        nothing = Nothing((z, y, x))
        super().__init__(nothing, cells, corrections, last_id=review.last_id)
        self.locked = frozenset(review.locked)
        self.regions = review.reviewed_regions
        self._ids = [
            IdChange(r.source, r.target, r.first, r.stop) for r in review.renamed
        ]
        self._settled = [review.settled.get(z, 0) for z in range(self.shape[0])]

    def part_of(self, review: ReviewState) -> ReviewState:
        """Return the review state with what is known here."""
        renamed = tuple(
            Renaming(source=i.source, target=i.target, first=i.first, stop=i.stop)
            for i in self._ids
        )
        return review.model_copy(
            update={
                "locked": tuple(sorted(self.locked)),
                "regions": tuple(region.as_tuple() for region in self.regions),
                "last_id": self.last_id,
                "renamed": renamed,
                "settled": {z: n for z, n in enumerate(self._settled) if n},
            }
        )

    def up_to_date(self, z: int) -> NDArray[np.uint32]:
        """Return the cells of a section `(y, x)` with all ids, and write nothing."""
        cells: NDArray[np.uint32] = np.array(self.arrays["cells"][z])
        for ids in self._ids[self._settled[z] :]:
            if ids.first <= z < ids.stop:
                cells[cells == ids.source] = ids.target
        return cells
