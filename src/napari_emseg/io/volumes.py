"""What a format module hands over: arrays with named axes, not yet a stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import NOWHERE, LazyArray, Origin, VoxelSize
from napari_emseg.io.claims import check_memory, check_shape
from napari_emseg.io.errors import UnreadableError, Value

Index = tuple[Any, ...]
"""An integer for each axis, or a slice."""

Part = Callable[[Index, slice, slice], NDArray[Any]]
"""Index as for a section, rows and columns (with both ends, no steps) → values."""

SLAB_BYTES = 128 * 2**20
"""Sections that share chunks are read together up to this size."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One array in a file.

    Parameters
    ----------
    axes
        A letter for each axis, ending in `YX` or `YXS` (S: samples of a colour pixel);
        before them any of `T`, `C`, `Z`.
    shape
        Length of each axis.
    dtype
        Type of the values.
    read
        Index of the axes before `YX` → the values there. Integers only, but for a slice
        of Z where `depth` is above 1.
    voxel_size_nm
        `(z, y, x)`, as far as the file says.
    key
        Value of the option that chooses this volume.
    words
        What the file calls it.
    depth
        Sections that share chunks.
    levels
        Smaller copies of this volume, largest first.
    part
        Reads a part of a section without the rest; None where that isn't cheaper.
    chunk
        `(y, x)` of what is read at once then.
    origin_nm
        `(z, y, x)` of the first voxel.
    planes
        Channels (C) are the sections unless the user says otherwise.
    gone
        Larger scale levels that are missing; those that are there are numbered on.
    lossy
        Grey values were compressed as JPEG does, so colours of a grey picture differ.
    """

    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Index], NDArray[Any]]
    voxel_size_nm: VoxelSize | None = None
    key: Value = 0
    words: str = ""
    depth: int = 1
    levels: tuple[Volume, ...] = ()
    part: Part | None = None
    chunk: tuple[int, int] | None = None
    origin_nm: Origin = NOWHERE
    planes: bool = False
    gone: int = 0
    lossy: bool = False

    @property
    def sizes(self) -> dict[str, int]:
        """Length by axis letter."""
        return dict(zip(self.axes, self.shape, strict=True))

    @property
    def summary(self) -> str:
        """Name, shape and type in words."""
        size = " × ".join(f"{n} {axis}" for axis, n in self.sizes.items())
        return f"{self.words}: {size}, {self.dtype}" if self.words else size


CMYK = "is in CMYK, inks for printing; save it as grey"
"""Why such a picture isn't read."""


@dataclass(frozen=True, slots=True)
class FileContents:
    """All volumes of a file.

    `option` chooses between them; `default` is the index of the one that is meant when
    nobody chooses, None if that would be a guess, for which `question` has the words.
    `refused` says of other keys why they can't be chosen.
    `files` are others that values are read from, `remarks` sentences on what seems odd.
    """

    volumes: tuple[Volume, ...]
    option: str = "series"
    default: int | None = 0
    question: str = "holds several pictures"
    provenance: Provenance | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()


def name_axes(axes: str, shape: tuple[int, ...]) -> str:
    """Name the axes that a file leaves unnamed (letters other than `TCZYXS`).

    The last unnamed one is z if there is no z yet, others become time, then channel.
    """
    named = list(axes)
    free = [letter for letter in "ZTC" if letter not in named]
    unnamed = [i for i, letter in enumerate(named) if letter not in "TCZYXS"]
    long = [i for i in unnamed if shape[i] > 1]
    for i in reversed(long):
        if not free:
            msg = f"has more axes than a stack can have: {axes}, {shape}"
            raise UnreadableError(msg)
        named[i] = free.pop(0)
    return "".join(named)


def unnamed_axes(shape: tuple[int, ...]) -> str:
    """Return letters for an array whose axes have no names: `(…, y, x)`.

    Axes of length 1 at the end are none of these, and a last axis of 3 or 4 behind a
    picture is the colours of a pixel.
    """
    end = len(shape)
    while end > 2 and shape[end - 1] == 1:
        end -= 1
    colour = end > 2 and shape[end - 1] in (3, 4) and min(shape[end - 3 : end - 1]) > 8
    tail = "YXS" if colour else "YX"
    return "Q" * (end - len(tail)) + tail + "Q" * (len(shape) - end)


def array_volume(array: LazyArray, axes: str) -> Volume:
    """Return a volume that reads from a sliceable array with its axes in any order."""
    shape = tuple(int(n) for n in array.shape)
    axes = name_axes(axes, shape)
    tail = "YXS" if "S" in axes else "YX"
    kept = [a for a, n in zip(axes, shape, strict=True) if a in "TCZ" and n != 1]
    lead = "".join(kept)

    def read(index: Index) -> NDArray[Any]:
        return part(index, slice(None), slice(None))

    def part(index: Index, rows: slice, columns: slice) -> NDArray[Any]:
        at: dict[str, Any] = dict(zip(lead, index, strict=True))
        at |= {**dict.fromkeys(tail, slice(None)), "Y": rows, "X": columns}
        # axes of length 1 that aren't kept are indexed by 0, which drops them
        values = np.asarray(array[tuple(at.get(a, 0) for a in axes)])
        left = [a for a in axes if isinstance(at.get(a, 0), slice)]
        wanted = [a for a in lead if isinstance(at[a], slice)] + list(tail)
        return values.transpose([left.index(a) for a in wanted])

    sizes = dict(zip(axes, shape, strict=True))
    order = lead + tail
    lengths = tuple(sizes[a] for a in order)
    return Volume(order, lengths, np.dtype(array.dtype), read, part=part)


def chunked(
    volume: Volume,
    axes: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...] | None,
) -> Volume:
    """Return the volume, read by slabs of the chunks of an array with these axes."""
    axes = name_axes(axes, shape)
    if chunks is None:
        return replace(volume, part=None)
    if volume.dtype.kind in "biuf":
        check_memory(prod(chunks) * volume.dtype.itemsize, f"a chunk of {chunks}")
    volume = replace(volume, chunk=(chunks[axes.index("Y")], chunks[axes.index("X")]))
    if "Z" not in volume.axes or "Z" not in axes:
        return volume
    section = prod(volume.shape[volume.axes.index("Y") :]) * volume.dtype.itemsize
    # as many as share chunks, unless a slab of them would be too large for memory
    deep = min(chunks[axes.index("Z")], volume.sizes["Z"], SLAB_BYTES // section)
    return replace(volume, depth=max(1, deep))


_NM: dict[str, float] = {
    "pm": 1e-3,
    "picometer": 1e-3,
    "a": 0.1,
    "å": 0.1,
    "angstrom": 0.1,
    "angstroem": 0.1,
    "ångström": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "micron": 1e3,
    "micrometer": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "centimeter": 1e7,
    "inch": 2.54e7,
    "in": 2.54e7,
    "m": 1e9,
    "meter": 1e9,
}


def to_nm(value: object, unit: object) -> float | None:
    """Return a length in nm; None if value or unit says nothing about it."""
    if not isinstance(value, (int, float)) or not isinstance(unit, str):
        return None
    name = unit.strip().replace("\\u00B5", "µ").lower()
    name = name.replace("μ", "µ").replace("metre", "meter")
    factor = _NM.get(name) or _NM.get(name.removesuffix("s"))
    size = float(value) * factor if factor else 0.0
    return size if isfinite(size) and size > 0 else None


def voxel_size(z: float | None, y: float | None, x: float | None) -> VoxelSize | None:
    """Return `(z, y, x)` in nm, or None unless y and x are both known."""
    return None if y is None or x is None else (z, y, x)


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
