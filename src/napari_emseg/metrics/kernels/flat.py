"""Sections to the flat form of the kernels and back."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)


def pad(section: NDArray[T]) -> NDArray[T]:
    """Transpose `(Y, X)`, add a border of zeros and flatten: `((X + 2) * (Y + 2),)`."""
    y, x = section.shape
    flat = np.zeros((x + 2, y + 2), section.dtype)
    flat[1:-1, 1:-1] = section.T
    return flat.ravel()


def unpad(flat: NDArray[T], shape: tuple[int, int]) -> NDArray[T]:
    """Undo `pad` for a section of `shape` `(Y, X)`."""
    y, x = shape
    return np.ascontiguousarray(flat.reshape(x + 2, y + 2)[1:-1, 1:-1].T)


def column(shape: tuple[int, int]) -> int:
    """Distance in the flat form between horizontal neighbours of a section."""
    return shape[0] + 2
