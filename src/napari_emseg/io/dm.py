"""Gatan DigitalMicrograph DM3 and DM4, read section by section."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsciio.digitalmicrograph import file_reader
from rsciio.exceptions import (
    DM3DataTypeError,
    DM3TagError,
    DM3TagIDError,
    DM3TagTypeError,
)

from napari_emseg.core.stack import VoxelSize
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.volumes import (
    FileContents,
    Index,
    RawPlanes,
    Volume,
    name_axes,
    to_nm,
    voxel_size,
)

_TYPES = {
    1: "i2",
    2: "f4",
    6: "u1",
    7: "i4",
    9: "i1",
    10: "u2",
    11: "u4",
    12: "f8",
    14: "?",
}
"""Real numbers by Gatan's DataType."""

_TAG_ERRORS = (DM3TagError, DM3TagTypeError, DM3TagIDError, DM3DataTypeError)

_COLOUR = (8, 23)
"""DataTypes of pixels stored as blue, green, red, alpha."""


def contents(path: Path) -> FileContents:
    """List the images of a DM file, without its thumbnail.

    rosettasciio parses the tags; values are read from where these say, since its lazy
    arrays refuse colour and keep what they have mapped.
    """
    images = _images(path)
    if not images:
        msg = "has no image in it"
        raise UnreadableError(msg)
    volumes: list[Volume] = []
    others: list[_NoPictureError] = []
    for nth, image in enumerate(images):
        try:
            volumes.append(_volume(path, image, nth))
        except _NoPictureError as e:  # a spectrum beside the picture, say
            others.append(e)
    if not volumes:
        raise others[0]
    return FileContents(tuple(volumes), default=0 if len(volumes) == 1 else None)


class _NoPictureError(UnreadableError):
    """An image of a file is no picture of real numbers."""


def _images(path: Path) -> list[dict[str, Any]]:
    try:
        return list(file_reader(str(path), lazy=True))
    except ValueError as e:
        if "RGBA" not in str(e):
            raise
        return list(file_reader(str(path)))
    except _TAG_ERRORS as e:
        msg = f"its tags are damaged ({type(e).__name__}: {e})"
        raise UnreadableError(msg) from e


def _volume(path: Path, image: dict[str, Any], nth: int) -> Volume:
    tags = image["original_metadata"]["ImageList"]["TagGroup0"]["ImageData"]
    shape = tuple(int(n) for n in tags["Dimensions"].values())[::-1]
    _check_axes(path, image["axes"])
    kind, offset = tags["DataType"], int(tags["Data"]["offset"])
    order = ">" if tags["Data"]["endian"] == "big" else "<"
    axes = name_axes("Q" * (len(shape) - 2) + "YX", shape)
    words = str(image["metadata"]["General"]["title"])
    size = _voxel_size(image["axes"])
    if kind in _COLOUR:
        bgra = RawPlanes(path, offset, np.dtype("u1"), (*shape, 4), tail=3)

        def rgba(index: Index) -> NDArray[Any]:
            return bgra(index)[..., [2, 1, 0, 3]]

        dtype = np.dtype("u1")
        return Volume(axes + "S", (*shape, 4), dtype, rgba, size, nth, words)
    if kind not in _TYPES:
        msg = "holds complex values, not grey ones"
        raise _NoPictureError(msg)
    dtype = np.dtype(order + _TYPES[kind])
    planes = RawPlanes(path, offset, dtype, shape, tail=2)
    volume = Volume(axes, shape, dtype, planes, size, nth, words)
    return replace(volume, part=planes.part, chunk=planes.chunk)


def _check_axes(path: Path, axes: list[dict[str, Any]]) -> None:
    """Refuse spectra and spectrum images."""
    strange = [a["name"] for a in axes if a["name"] not in ("x", "y", "z", None)]
    if strange or len(axes) < 2:
        names = ", ".join(str(a["name"]) for a in axes)
        msg = f"holds a spectrum, not a picture; its axes are {names}"
        raise _NoPictureError(msg)


def _voxel_size(axes: list[dict[str, Any]]) -> VoxelSize | None:
    """Return `(z, y, x)`; each axis has its own unit."""
    lengths = [to_nm(float(axis["scale"]), axis["units"]) for axis in axes]
    return voxel_size(lengths[-3] if len(lengths) > 2 else None, *lengths[-2:])
