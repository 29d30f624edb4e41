"""Where cells are: the box around each, found section by section."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi

from napari_emseg.core.records import Progress, Record
from napari_emseg.core.stack import LazyArray


@dataclass(slots=True)
class Box:
    """Rows, columns and sections that a cell is in, and how many voxels it has."""

    z: slice
    y: slice
    x: slice
    voxels: int

    def add(self, z: int, y: slice, x: slice, voxels: int) -> None:
        """Grow around the cell's profile in section `z`."""
        self.z = _around(self.z, slice(z, z + 1))
        self.y, self.x = _around(self.y, y), _around(self.x, x)
        self.voxels += voxels

    @property
    def size(self) -> int:
        """Voxels of the whole box."""
        z, y, x = (part.stop - part.start for part in (self.z, self.y, self.x))
        return int(z * y * x)


def _around(one: slice, other: slice) -> slice:
    return slice(min(one.start, other.start), max(one.stop, other.stop))


def finding_boxes(cells: LazyArray) -> Generator[Record, None, dict[int, Box]]:
    """Return the box of each cell of `(z, y, x)`, by id; yields Progress."""
    boxes: dict[int, Box] = {}
    n = int(cells.shape[0])
    for z in range(n):
        section = np.asarray(cells[z])
        ids, index, counts = np.unique(section, return_inverse=True, return_counts=True)
        places = ndi.find_objects(index.reshape(section.shape) + 1)
        for i, place, count in zip(ids.tolist(), places, counts.tolist(), strict=True):
            if i == 0 or place is None:
                continue
            y, x = place
            if i in boxes:
                boxes[i].add(z, y, x, count)
            else:
                boxes[i] = Box(slice(z, z + 1), y, x, count)
        yield Progress("looking for cells", z + 1, n)
    return boxes
