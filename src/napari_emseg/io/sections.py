"""A lazy `(z, y, x)` array that reads one section, or one slab of chunks, at a time."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from math import prod
from threading import Lock
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.stack import plain_dtype
from napari_emseg.io.claims import check_memory
from napari_emseg.io.errors import UnreadableError, clear_errors

Read = Callable[[int, int], NDArray[Any]]
"""Reads sections `first` … `last - 1` as `(n, y, x)`; must be thread-safe if n is 1."""

Part = Callable[[int, slice, slice], NDArray[Any]]
"""Reads rows and columns of a section `(y, x)`; must be thread-safe."""

BAND_BYTES = 64 * 2**20
"""What is thinned out while it is read is read in bands of so many bytes."""


KEPT_BYTES = 2**24
"""Of larger sections of which no part can be read alone, the last one is kept."""


class SectionArray:
    """Sections `(z, y, x)` that are read when sliced; safe to share by threads.

    Parameters
    ----------
    shape
        `(z, y, x)`.
    dtype
        Type of the values; they are handed out in the machine's byte order.
    read
        Reads some sections.
    name
        Stands in error messages.
    depth
        Sections that lie in one chunk of the file. They are read together and the last
        such slab is kept, so that going through the stack decodes each chunk once.
    """

    ndim = 3

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        read: Read,
        *,
        name: str,
        depth: int = 1,
    ) -> None:
        self.shape = shape
        self.dtype = plain_dtype(dtype)
        self.size = prod(shape)
        self.nbytes = self.size * self.dtype.itemsize
        self._read = read
        self._name = name
        self._depth = depth
        self._lock = Lock()
        self._slab: tuple[int, NDArray[Any]] | None = None
        self._part: Part | None = None
        self._chunk = self.shape[1:]

    def read_parts(self, part: Part, chunk: tuple[int, int]) -> None:
        """Read parts of sections without the rest, in chunks of `(y, x)` px."""
        self._part = part
        self._chunk = chunk

    def as_type(self, dtype: np.dtype[Any]) -> SectionArray:
        """Return the same sections, handed out as another type that holds them."""
        other = copy(self)
        other.dtype = plain_dtype(dtype)
        other.nbytes = other.size * other.dtype.itemsize
        other._lock, other._slab = Lock(), None
        return other

    @property
    def chunks(self) -> tuple[int, int, int]:
        """`(z, y, x)` of what is read at once."""
        y, x = self._chunk
        return self._depth, y, x

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<SectionArray {self._name} {self.shape} {self.dtype}>"

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        if copy is False:
            msg = f"{self._name}: sections are read from a file, which makes a copy"
            raise ValueError(msg)
        values: NDArray[Any] = self[:]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Index by integers, slices, an ellipsis; along z also by a list or mask."""
        which, rest = self._split(key)
        if isinstance(which, SupportsIndex) and not isinstance(which, np.ndarray):
            z = range(self.shape[0])[which]
            slices = all(isinstance(r, slice) for r in rest)
            if self._part is not None and slices:
                return self._parts(z, *rest)
            if self._keeps and rest != (slice(None), slice(None)):
                return self._part_of_kept(z, rest)
            return np.asarray(self._section(z)[rest])
        depth = range(self.shape[0])
        picked = depth[which] if isinstance(which, slice) else np.array(depth)[which]
        if len(picked) == 0:
            return np.empty((0, *self.shape[1:]), self.dtype)[:, *rest]
        return np.stack([self._section(int(z))[rest] for z in picked])

    def _split(self, key: Any) -> tuple[Any, tuple[Any, ...]]:
        keys = list(key) if isinstance(key, tuple) else [key]
        dots = [i for i, part in enumerate(keys) if part is Ellipsis]
        if len(keys) - len(dots) > 3 or len(dots) > 1 or any(k is None for k in keys):
            msg = f"{self._name}: a (z, y, x) stack can't be indexed by {key!r}"
            raise IndexError(msg)
        at = dots[0] if dots else len(keys)
        missing = [slice(None)] * (3 - len(keys) + len(dots))
        keys[at : at + 1] = missing
        return keys[0], tuple(keys[1:])

    def _parts(self, z: int, rows: slice, columns: slice) -> NDArray[Any]:
        """Read rows and columns of a section; with steps, band by band."""
        y, x = (
            range(n)[s] for n, s in zip(self.shape[1:], (rows, columns), strict=True)
        )
        if len(y) * len(x) == 0 or y.step < 0 or x.step < 0:
            return self._section(z)[rows, columns]
        whole = (len(y), len(x)) == self.shape[1:]
        if whole:
            return self._section(z)
        # read without a step, thinned afterwards: most
        # formats decode all that lies between
        across = slice(x.start, x[-1] + 1)
        row_bytes = (across.stop - across.start) * self.dtype.itemsize * y.step
        band = len(y) if y.step == x.step == 1 else max(1, BAND_BYTES // row_bytes)
        bands = [y[first : first + band] for first in range(0, len(y), band)]
        values = [
            self._load_part(z, slice(b.start, b[-1] + 1), across)[:: y.step, :: x.step]
            for b in bands
        ]
        return values[0] if len(values) == 1 else np.concatenate(values)

    @property
    def _keeps(self) -> bool:
        """True if a section is so large that it is decoded once for many parts."""
        large = self.nbytes // self.shape[0] >= KEPT_BYTES
        return large and self._part is None and self._depth == 1

    def _part_of_kept(self, z: int, rest: tuple[Any, ...]) -> NDArray[Any]:
        with self._lock:
            if self._slab is None or self._slab[0] != z:
                self._slab = None  # before the next one is read
                self._slab = (z, self._load(z, z + 1)[0])
            return np.array(self._slab[1][rest])

    def _load_part(self, z: int, rows: slice, columns: slice) -> NDArray[Any]:
        if self._part is None:
            return self._section(z)[rows, columns]
        with clear_errors(f"{self._name}, section {z}"):
            values = len(range(*rows.indices(self.shape[1])))
            values *= len(range(*columns.indices(self.shape[2])))
            check_memory(values * self.dtype.itemsize, f"this part of {self.shape[1:]}")
            return np.asarray(self._part(z, rows, columns), dtype=self.dtype)

    def _section(self, z: int) -> NDArray[Any]:
        section: NDArray[Any]
        if self._depth == 1:
            section = self._load(z, z + 1)[0]
            return section
        with self._lock:
            # slabs begin on chunk borders, or each chunk would be decoded twice
            first = z - z % self._depth
            if self._slab is None or self._slab[0] != first:
                last = min(first + self._depth, self.shape[0])
                self._slab = (first, self._load(first, last))
            section = self._slab[1][z - first].copy()
            return section

    def _load(self, first: int, last: int) -> NDArray[Any]:
        sections = f"section {first}" + (f"…{last - 1}" if last - first > 1 else "")
        with clear_errors(f"{self._name}, {sections}"):
            needed = (last - first) * self.nbytes // self.shape[0]
            check_memory(needed, f"{last - first} of {self.shape[1:]}")
            values = np.asarray(self._read(first, last), dtype=self.dtype)
        if values.shape != (last - first, *self.shape[1:]):
            msg = (
                f"{self._name}, {sections}: is {values.shape[-2:]} px (y, x), "
                f"where {self.shape[1:]} was expected"
            )
            raise UnreadableError(msg)
        return values
