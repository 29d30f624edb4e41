"""NumPy's own files, read section by section."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_emseg.io.claims import check_shape
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.volumes import (
    FileContents,
    RawPlanes,
    Volume,
    array_volume,
    name_axes,
    unnamed_axes,
)


def contents(path: Path) -> FileContents:
    """Return the array of a `.npy` file; a last axis of 3 or 4 is colour."""
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read_header(file)
        offset = file.tell()
    if dtype.hasobject:
        msg = "holds Python objects, not numbers"
        raise UnreadableError(msg)
    check_shape(shape)
    if len(shape) < 2:
        msg = f"is not a picture, its shape is {shape}"
        raise UnreadableError(msg)
    axes = unnamed_axes(shape)
    if fortran:
        array = np.memmap(path, dtype, "r", offset, shape, order="F")
        return FileContents((array_volume(array, axes),))
    # Axes of length 1 don't change where values lie.
    kept = [(a, n) for a, n in zip(axes, shape, strict=True) if a in "YXS" or n != 1]
    axes, shape = "".join(a for a, _ in kept), tuple(n for _, n in kept)
    axes = name_axes(axes, shape)
    tail = 3 if axes.endswith("S") else 2
    planes = RawPlanes(path, offset, dtype, shape, tail)
    volume = Volume(axes, shape, dtype, planes)
    if tail == 2:
        volume = replace(volume, part=planes.part, chunk=planes.chunk)
    return FileContents((volume,))
