"""What reads a section: all of it at once, or windows of one that is too large."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.stack import Stack

Read = Callable[[slice, slice], NDArray[Any]]
"""Reads rows and columns of a section `(y, x)`; of every n-th, too."""

HUGE_PIXELS = 8192 * 8192
"""Sections beyond this are read window by window where the array allows it."""

STRIP = 1024
"""Rows of which every n-th is taken at once: arrays may decode all that lie between."""


def reading(stack: Stack, z: int, *, most: int = HUGE_PIXELS) -> Read:
    """Return what reads section `z`.

    Parameters
    ----------
    most
        A section of more pixels isn't read as a whole if parts of it can be.

    Raises
    ------
    OSError, ValueError
        From the reader, when the section is read at once and is damaged.
    """
    if in_parts(stack, most):
        return lambda rows, columns: _part(stack, z, rows, columns)
    values = stack.section(z)
    return lambda rows, columns: values[rows, columns]


def in_parts(stack: Stack, most: int = HUGE_PIXELS) -> bool:
    """Tell if sections have more pixels and a part can be read without the rest."""
    pixels = stack.shape[1] * stack.shape[2]
    if pixels <= most:
        return False
    # views, and memory maps are arrays, too: a part costs nothing
    if isinstance(stack.data, np.ndarray):
        return True
    chunks = getattr(stack.data, "chunks", None)
    if not isinstance(chunks, tuple) or len(chunks) != 3:
        return False
    # dask has a tuple of lengths for each axis, zarr and h5py one length
    y, x = (max(c) if isinstance(c, tuple) else int(c) for c in chunks[1:])
    return bool(y * x <= HUGE_PIXELS and y * x < pixels)


def _part(stack: Stack, z: int, rows: slice, columns: slice) -> NDArray[Any]:
    lines = range(stack.shape[1])[rows]
    if lines.step == 1:
        return np.asarray(stack.data[z, rows, columns])
    # bands of about `STRIP` source rows, whatever the step
    deep = max(1, STRIP // lines.step)
    strips = [lines[first : first + deep] for first in range(0, len(lines), deep)]
    return np.concatenate(
        [
            np.asarray(stack.data[z, strip.start : strip.stop : strip.step, columns])
            for strip in strips
        ]
    )
