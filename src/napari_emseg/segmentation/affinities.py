"""How likely two voxels are of one cell: what a network may say beside membranes."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Area
from napari_emseg.core.stack import LazyArray, Stack

Offset = tuple[int, int, int]
"""Of the other voxel, `(z, y, x)`: it lies before the one where the affinity is."""

Faces = tuple[NDArray[np.float32], ...]
"""For each axis how sure a boundary is between a voxel and the one before it.

From 0 to 1; NaN where nothing is known.
"""

NEXT: tuple[Offset, Offset, Offset] = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))

_NAME = re.compile(r"affinity ([zyx])([1-9]\d?)")


def offset_of(name: str) -> Offset | None:
    """Return the offset of a class such as `affinity z1`; None of any other class."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    axis, far = "zyx".index(found[1]), int(found[2])
    z, y, x = (-far if k == axis else 0 for k in range(3))
    return z, y, x


def affinity_classes(classes: Iterable[str]) -> tuple[str, ...]:
    """Return those of a network's classes that cells are found by: to the next voxel.

    Empty unless there is one along z: without it sections aren't told apart any better
    than by membranes.
    """
    there = {offset_of(name): name for name in classes}
    return tuple(there[o] for o in NEXT if o in there) if NEXT[0] in there else ()


@dataclass(frozen=True, slots=True, eq=False)
class Affinities:
    """Probabilities that a voxel and the one at an offset are of one cell.

    Parameters
    ----------
    arrays
        `(z, y, x)` by offset: floats in [0, 1], NaN where unknown, or uint8 from 0 to
        255. Those of the next voxels are used, others aren't.
    first
        Section that counts as 0.
    """

    arrays: Mapping[Offset, LazyArray]
    first: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """`(z, y, x)` of the arrays."""
        return tuple(next(iter(self.arrays.values())).shape)

    def starting(self, first: int) -> Self:
        """Return them for a part of the stack that begins at a section."""
        return replace(self, first=self.first + first)

    @classmethod
    def named(cls, arrays: Mapping[str, LazyArray], shape: tuple[int, ...]) -> Self:
        """Return those of arrays by the names of a network's classes.

        Raises
        ------
        ValueError
            If a name is no affinity, none goes along z, or a shape is another one.
        """
        known: dict[Offset, LazyArray] = {}
        for name, array in arrays.items():
            offset = offset_of(name)
            if offset is None:
                msg = f"{name!r} is no affinity; they are called e.g. 'affinity z1'"
                raise ValueError(msg)
            if tuple(array.shape) != tuple(shape):
                msg = (
                    f"{name} has {tuple(array.shape)} voxels (z, y, x), but the "
                    f"probabilities have {tuple(shape)}"
                )
                raise ValueError(msg)
            known[offset] = array.data if isinstance(array, Stack) else array
        if NEXT[0] not in known:
            msg = f"cells through sections need 'affinity z1', got {', '.join(arrays)}"
            raise ValueError(msg)
        return cls(known)

    def sections(self, first: int, stop: int, area: Area | None = None) -> Faces:
        """Return faces of a part of the stack, along z, y and x.

        The first voxel along an axis of the whole has none before it.
        """
        found = []
        for axis, offset in enumerate(NEXT):
            array = self.arrays.get(offset)
            faces = self._read(array, range(first, stop), area)
            start = first if axis == 0 else (area[axis - 1].start if area else 0)
            if start == 0:
                faces.swapaxes(0, axis)[:1] = np.nan
            found.append(faces)
        return tuple(found)

    def volume(self, n: int, absent: Collection[int]) -> Faces:
        """Return faces of all `n` sections, NaN in absent ones and behind them."""
        return self.known(self.sections(0, n), 0, absent)

    @staticmethod
    def known(faces: Faces, first: int, absent: Collection[int]) -> Faces:
        """Forget faces, from section `first` on, that were seen without a picture."""
        here = range(first, first + len(faces[0]))
        for face in faces:
            face[[z - first for z in absent if z in here]] = np.nan
        faces[0][[z + 1 - first for z in absent if z + 1 in here]] = np.nan
        return faces

    def _read(
        self, array: LazyArray | None, sections: range, area: Area | None
    ) -> NDArray[np.float32]:
        height, width = self.shape[1:]
        rows, columns = area or (slice(0, height), slice(0, width))
        shape = (len(sections), rows.stop - rows.start, columns.stop - columns.start)
        faces = np.full(shape, np.nan, np.float32)
        if array is None:
            return faces
        for place, z in enumerate(sections):
            values = _part(array, self.first + z, (rows, columns))
            faces[place] = boundary_of(values, self.first + z)
        return faces


def _part(array: LazyArray, z: int, area: Area) -> NDArray[Any]:
    if hasattr(array, "chunks"):  # of a large section only what is needed is read
        return np.asarray(array[(z, *area)])
    return np.asarray(array[z])[area]


def boundary_of(affinity: NDArray[Any], z: int) -> NDArray[np.float32]:
    """Return how sure a boundary is, from an affinity `(y, x)` of section `z`.

    Raises
    ------
    ValueError
        If the values are no probabilities.
    """
    if affinity.dtype == np.uint8:
        affinity = affinity.astype(np.float32) / np.float32(255)
    values = np.asarray(affinity, np.float32)
    if (
        affinity.dtype.kind not in "bf"
        or (values < -1e-3).any()
        or (values > 1 + 1e-3).any()
    ):
        msg = (
            f"affinities of section {z} are no probabilities: floats from 0 to 1, or "
            f"uint8; got {affinity.dtype} from {np.nanmin(values):g} to "
            f"{np.nanmax(values):g}"
        )
        raise ValueError(msg)
    found: NDArray[np.float32] = np.clip(np.float32(1) - values, 0, 1)
    return found
