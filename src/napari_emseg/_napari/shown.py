"""Arrays between napari and stacks: for the screen, and of a single picture."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from napari.utils.notifications import show_info, show_warning
from numpy.typing import NDArray

from napari_emseg.core.memory import free_ram
from napari_emseg.core.stack import LazyArray, Stack


class Shown:
    """A stack for the screen: a section that can't be read is black, and told of once.

    Without this, one damaged file would keep a folder of good ones from being opened.
    What napari's brush is used on is read into memory first; the file stays as it is.
    """

    ndim = 3

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.shape = stack.shape
        self.dtype = stack.dtype
        self.size = prod(stack.shape)
        self.nbytes = self.size * stack.dtype.itemsize
        self.painted: NDArray[Any] | None = None
        """All of it, once something was painted."""
        self._told: set[int] = set()

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(
        self, dtype: np.dtype[Any] | None = None, copy: bool | None = None
    ) -> NDArray[Any]:
        if copy is False:
            msg = f"{self.stack.name}: reading from a file makes a copy"
            raise ValueError(msg)
        return np.asarray(self[:], dtype)

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Index by `(z, y, x)`."""
        if self.painted is not None:
            return np.asarray(self.painted[key])
        try:
            return np.asarray(self.stack.data[key])
        except (OSError, ValueError):
            return self._one_by_one(key if isinstance(key, tuple) else (key,))

    def __setitem__(self, key: Any, value: Any, /) -> None:
        """Paint by `(z, y, x)`, in memory.

        Raises
        ------
        MemoryError
            If all of it takes more than is free.
        """
        if self.painted is None:
            name, needed, free = self.stack.name, self.nbytes, free_ram()
            if needed > free:
                msg = (
                    f"{name} can't be painted on: it takes {needed / 1e9:.2g} GB of "
                    f"memory, {free / 1e9:.2g} GB are free; crop it first"
                )
                raise MemoryError(msg)
            self.painted = np.array(self[:])
            show_info(f"{name} was read into memory to paint on; save it to keep that")
        self.painted[key] = value

    def _one_by_one(self, key: tuple[Any, ...]) -> NDArray[Any]:
        which = np.arange(self.shape[0])[key[0]]
        if which.ndim == 0:
            section: NDArray[Any] = self._section(int(which))[key[1:]]
            return section
        return np.stack([self._section(int(z))[key[1:]] for z in which])

    def _section(self, z: int) -> NDArray[Any]:
        try:
            values: NDArray[Any] = np.asarray(self.stack.data[z])
            return values
        except (OSError, ValueError) as e:
            if z not in self._told:
                self._told.add(z)
                show_warning(f"section {z} is shown black: {e}")
            return np.zeros(self.shape[1:], self.dtype)


class OneSection:
    """A picture `(y, x)` as a stack `(1, y, x)`; read when it is sliced."""

    def __init__(self, picture: LazyArray) -> None:
        self.shape = (1, *picture.shape)
        self.dtype = np.dtype(picture.dtype)
        self._picture = picture

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Index by `(z, y, x)`."""
        keys = key if isinstance(key, tuple) else (key,)
        return np.asarray(self._picture[keys[1:]])[None][keys[0]]


_STORED_AS = {
    "bool": "uint8",
    "float16": "float32",
    "float64": "float32",
}
"""For types that files don't take."""


class Storable:
    """An array of a type that files take, converted when it is sliced.

    Ids of int64, which napari's new labels are, become uint32 if all fit, as more
    programs read it.
    """

    def __init__(self, data: LazyArray) -> None:
        self.shape = data.shape
        stored = np.dtype(data.dtype)
        self.dtype = np.dtype(_STORED_AS.get(stored.name, stored))
        if stored.name == "int64" and _fit_into_uint32(data):
            self.dtype = np.dtype(np.uint32)
        self._data = data

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Index as the array."""
        return np.asarray(self._data[key]).astype(self.dtype, copy=False)


def _fit_into_uint32(data: LazyArray) -> bool:
    for z in range(data.shape[0]):
        section = np.asarray(data[z])
        if section.min() < 0 or section.max() > np.iinfo(np.uint32).max:
            return False
    return True
