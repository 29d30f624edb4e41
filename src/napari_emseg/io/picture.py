"""PNG and JPEG: one section each."""

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from napari_emseg.io.claims import DEFLATE, JPEG, check_packed
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.volumes import CMYK, FileContents, Index, Volume

_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Samples of a pixel by PNG colour type; a palette is real colour."""


def contents(path: Path) -> FileContents:
    """Return the picture as a volume of one section."""
    with path.open("rb") as file:
        head = file.read(33)
    if head.startswith(b"\x89PNG"):
        return FileContents((_png(path, head),))
    return FileContents((_jpeg(path),))


def _png(path: Path, head: bytes) -> Volume:
    if len(head) < 33 or head[12:16] != b"IHDR":
        msg = "is cut short or damaged, it has no PNG header"
        raise UnreadableError(msg)
    width, height, bits, colour = struct.unpack(">IIBB", head[16:26])
    if colour not in _SAMPLES or width == 0 or height == 0:
        msg = f"is damaged, its PNG header says {width} × {height} px"
        raise UnreadableError(msg)
    if (pictures := _pictures(path)) > 1:
        msg = (
            f"is an animation of {pictures} pictures; save them as a TIFF, or each "
            "as a file of its own"
        )
        raise UnreadableError(msg)
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    shape = height, width, _SAMPLES[colour]
    # as many bits as are stored, of which eight or fewer become a byte
    stored = path.stat().st_size * max(1, 8 // max(bits, 1))
    check_packed(shape, dtype.itemsize, stored, DEFLATE)

    def read(index: Index) -> NDArray[Any]:
        from imagecodecs import png_decode

        return np.asarray(png_decode(path.read_bytes()))

    return _volume(height, width, _SAMPLES[colour], dtype, read)


def _pictures(path: Path) -> int:
    """Return how many pictures a PNG holds: what its `acTL` says before the first."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind == b"acTL":
                return int.from_bytes(file.read(4), "big")
            if kind == b"IDAT":
                break
            file.seek(size + 4, os.SEEK_CUR)
    return 1


def _jpeg(path: Path) -> Volume:
    # Not Image.open: it refuses pictures as large as EM sections can be.
    with path.open("rb") as file, JpegImageFile(file) as picture:
        width, height = picture.size
        bands = len(picture.getbands())
    if bands > 3:
        raise UnreadableError(CMYK)
    check_packed((height, width), 1, path.stat().st_size, JPEG)

    def read(index: Index) -> NDArray[Any]:
        with path.open("rb") as file, JpegImageFile(file) as picture:
            return np.asarray(picture)

    volume = _volume(height, width, bands, np.dtype(np.uint8), read)
    return replace(volume, lossy=True)


def _volume(height: int, width: int, samples: int, dtype: Any, read: Any) -> Volume:
    if samples == 1:
        return Volume("YX", (height, width), dtype, read)
    return Volume("YXS", (height, width, samples), dtype, read)
