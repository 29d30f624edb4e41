"""One section with its linked pictures, as the tools see it: read, never written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.stack import LazyArray
from napari_emseg.proofreading.area import (
    Area,
    Shape,
    area_of,
    contained,
    corner,
    grown,
    within,
)
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE, LabelArray, Name


@dataclass(frozen=True, slots=True, eq=False)
class SectionView:
    """Membranes, cells and corrections of section `z` of a stack.

    Parameters
    ----------
    arrays
        Each `(z, y, x)`; only the windows that are asked for are read.
    probabilities
        Of membrane `(z, y, x)`, in [0, 1]; None where nothing was predicted.
    locked
        Cells that no edit may touch.
    next_id
        This id and those above it belong to no cell.
    """

    z: int
    arrays: dict[Name, LabelArray] = field(repr=False)
    probabilities: LazyArray | None = field(default=None, repr=False)
    locked: frozenset[int] = frozenset()
    next_id: int = 1

    @property
    def shape(self) -> Shape:
        """`(y, x)` in px."""
        _, y, x = self.arrays["cells"].shape
        return int(y), int(x)

    @property
    def whole(self) -> Area:
        """All of the section."""
        y, x = self.shape
        return slice(0, y), slice(0, x)

    def window(self, name: Name, area: Area) -> NDArray[Any]:
        """Return a copy `(y, x)` of an area of an array."""
        return np.array(self.arrays[name][(self.z, *area)])

    def cell_at(self, point: NDArray[Any] | tuple[float, float]) -> int:
        """Return the id of the cell at `(y, x)`; 0 where there is none.

        Raises
        ------
        ValueError
            If the point is outside of the picture.
        """
        y, x = self.pixel(point)
        return int(np.asarray(self.arrays["cells"][self.z, y, x]))

    def pixel(self, point: NDArray[Any] | tuple[float, float]) -> tuple[int, int]:
        """Return the pixel of a point `(y, x)`.

        Raises
        ------
        ValueError
            If it is outside of the picture.
        """
        y, x = (int(np.floor(float(v) + 0.5)) for v in point)
        if not (0 <= y < self.shape[0] and 0 <= x < self.shape[1]):
            msg = (
                f"({y}, {x}) is outside of the picture of "
                f"{self.shape[0]} × {self.shape[1]} px"
            )
            raise ValueError(msg)
        return y, x

    def probability(self, area: Area) -> NDArray[np.float32]:
        """Return probabilities `(y, x)` of membrane with the corrections burnt in.

        Raises
        ------
        ValueError
            If nothing was predicted.
        """
        if self.probabilities is None:
            msg = (
                f"section {self.z} has no membrane probabilities to follow; "
                f"run 2 Membranes on it first"
            )
            raise ValueError(msg)
        given = np.array(self.probabilities[(self.z, *area)], np.float32)
        values = np.nan_to_num(given, nan=0.0)
        return burn_in(values, self.window("corrections", area))

    def refuse_locked(self, ids: Iterable[int]) -> None:
        """Say which of these cells are locked.

        Raises
        ------
        ValueError
            If some are.
        """
        kept = sorted(self.locked.intersection(int(i) for i in ids))
        if kept:
            names = ", ".join(str(i) for i in kept[:3])
            msg = f"cell {names} is locked; unlock it to change it"
            raise ValueError(msg)

    def is_locked(self, cells: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where a window of cells shows locked ones."""
        if not self.locked:
            return np.zeros(cells.shape, bool)
        return np.isin(cells, np.fromiter(self.locked, np.int64))

    def pieces(self, cell: int, area: Area) -> Area:
        """Return the area of all of a cell's pieces that reach into another area.

        Raises
        ------
        ValueError
            If no pixel of the cell is in the area.
        """
        found = self.spread(area, lambda wide: self.window("cells", wide) == cell)
        if found is None:
            msg = f"cell {cell} is not here"
            raise ValueError(msg)
        return found

    def spread(
        self, area: Area, look: Callable[[Area], NDArray[np.bool_]]
    ) -> Area | None:
        """Return the area of all 4-connected pieces that reach into another area.

        The window in which to look is widened until no piece reaches its border, so
        that small things in large sections are found without reading those. None if
        nothing is in the area.
        """
        margin = 32
        while True:
            wide = grown(area, margin, self.shape)
            part, _ = ndi.label(look(wide))
            hit = np.unique(part[within(area, wide)])
            found = area_of(np.isin(part, hit[hit > 0]), corner(wide))
            if found is None or contained(found, wide, self.shape):
                return found
            margin *= 2


def burn_in(
    probabilities: NDArray[np.float32], corrections: NDArray[Any]
) -> NDArray[np.float32]:
    """Return probabilities of membrane as a person corrected them: hand beats network.

    1 where corrections say membrane, 0 where they say inside or another class.
    """
    out = np.where(corrections == MEMBRANE, np.float32(1), probabilities)
    return np.where(corrections >= INSIDE, np.float32(0), out).astype(np.float32)
