"""Values that lie one after the other in a file: planes of them, or some rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.io.claims import check_shape
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.volumes import Index

ROWS = 64
"""A chunk of raw values: a seek costs about as much as reading so many rows."""


@dataclass(frozen=True, slots=True)
class RawPlanes:
    """Reads planes, or rows of them, without a memory map.

    Pages of a map count as memory of the process, and a map of a file that is cut short
    kills it.

    Parameters
    ----------
    path, offset
        Where the first value lies, in bytes.
    dtype
        As stored, with its byte order.
    shape
        Of the whole array.
    tail
        How many of the last axes make a plane.

    Raises
    ------
    UnreadableError
        If the file is too short for the shape.
    """

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    tail: int

    def __post_init__(self) -> None:
        check_shape(self.shape)
        needed = self.offset + prod(self.shape) * self.dtype.itemsize
        size = self.path.stat().st_size
        if size < needed:
            msg = (
                f"is cut short: {self.shape} {self.dtype} needs {needed:,} bytes, "
                f"the file has {size:,}"
            )
            raise UnreadableError(msg)

    @property
    def plane(self) -> tuple[int, ...]:
        """Shape of a plane."""
        return self.shape[len(self.shape) - self.tail :]

    @property
    def chunk(self) -> tuple[int, int]:
        """`(y, x)` of what is read at once of planes `(y, x)`."""
        return min(ROWS, self.plane[0]), self.plane[1]

    def __call__(self, index: Index) -> NDArray[Any]:
        """Read a plane."""
        return self.rows(index, slice(None))

    def part(self, index: Index, rows: slice, columns: slice) -> NDArray[Any]:
        """Read rows and columns of a plane `(y, x)`, no rows beside them."""
        return self.rows(index, rows)[:, columns]

    def rows(self, index: Index, rows: slice) -> NDArray[Any]:
        """Read rows of a plane."""
        lead = self.shape[: len(self.shape) - self.tail]
        nth = int(np.ravel_multi_index(index, lead)) if lead else 0
        first, stop, _ = rows.indices(self.plane[0])
        row = prod(self.plane[1:])
        begin = (nth * self.plane[0] + first) * row * self.dtype.itemsize
        count = max(0, stop - first) * row
        values = np.fromfile(self.path, self.dtype, count, offset=self.offset + begin)
        return values.reshape(-1, *self.plane[1:])
