"""TIFFs for other programs, ImageJ among them."""

import json
import os
import sys
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffWriter, imagej_description, imagej_metadata_tag

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import VoxelSize
from napari_emseg.io.formats import SinkOptions
from napari_emseg.io.output import FileSink, Output
from napari_emseg.io.stored import PROBABILITIES

CLASSIC_LIMIT = 2**32 - 2**20
"""Bytes that a TIFF with 32-bit offsets may have, with room for notes."""

_PAGE_BYTES = 512
"""At most what a page takes beside its values."""

_ROOM = 256
"""Blanks after the provenance, over which more of it can be written."""

_NOTES = (270, 50839)
"""Tags that have it: `ImageDescription` as XML, and ImageJ's `IJMetadata`."""

_ORDER: Literal["<", ">"] = "<" if sys.byteorder == "little" else ">"

_Form = Literal["pages", "one page", "big"]
"""A page for each section; a page for all, as ImageJ has it; BigTIFF."""


class TiffSink(FileSink):
    """An uncompressed TIFF whose sections are filled in any order.

    Up to 4 GiB it carries ImageJ's notes: calibration, unit, provenance under Info.
    Fiji shows uint32 as 32-bit float. Beyond, it is a BigTIFF with OME notes, which
    Fiji opens through Bio-Formats; `ImageJSink` stays with ImageJ's form. Neither has a
    word for the origin.

    Raises
    ------
    OSError
        As `Output`.
    """

    only_imagej: ClassVar[bool] = False

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        options: SinkOptions,
    ) -> None:
        needed = prod(shape) * dtype.itemsize + (shape[0] + 1) * _PAGE_BYTES
        output = Output(path, overwrite=options.overwrite, bytes_needed=needed)
        super().__init__(output, shape, dtype, options.provenance)
        form: _Form = "pages"
        if needed > CLASSIC_LIMIT:
            form = "one page" if self.only_imagej else "big"
        self._info = _info(options.provenance) + " " * _ROOM
        # OME has no type for 64 bits
        ome = form == "big" and dtype.name != "uint64"
        self._encode = _as_xml if ome else _as_imagej
        with output.beginning() as part:
            self._start = _lay_out(part, shape, dtype, options, form, self._info, ome)
            self._file = part.open("r+b")

    def _store(self, z: int, section: NDArray[Any]) -> None:
        """Store section `z`, `(y, x)`."""
        size = prod(self.shape[1:]) * self.dtype.itemsize
        self._file.seek(self._start + z * size)
        self._file.write(np.ascontiguousarray(section, self.dtype).data)

    def _tell(self, made: Provenance) -> None:
        """Write over what is said, which has room for more, whichever tag has it."""
        before, text = self._encode(self._info), _info(made)
        blanks = (len(before) - len(self._encode(text))) // len(self._encode(" "))
        if blanks < 0:
            return
        self._info = text + " " * blanks
        self._file.flush()
        with TiffFile(self._output.part) as tif:
            tags = [t for t in tif.pages.first.tags if t.code in _NOTES]
            places = [(tag.valueoffset, tag.valuebytecount) for tag in tags]
        for start, length in places:
            self._file.seek(start)
            said = self._file.read(length).replace(before, self._encode(self._info))
            self._file.seek(start)
            self._file.write(said)

    def _let_go(self, *, keep: bool) -> None:
        self._file.close()


class ImageJSink(TiffSink):
    """A TIFF that ImageJ opens by itself, whatever its size.

    Beyond 4 GiB it has one page with the place of the first section; ImageJ finds the
    others behind it, as in the files that it writes itself. Other programs may see the
    first section only.
    """

    only_imagej: ClassVar[bool] = True


def _lay_out(
    path: Path,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    options: SinkOptions,
    form: _Form,
    info: str,
    ome: bool,
) -> int:
    """Write all but the values, and return the byte at which these begin."""
    size, provenance = options.voxel_size_nm, options.provenance
    notes = _imagej_notes(shape, size, provenance)
    order, big = _ORDER, form == "big"
    with TiffWriter(path, bigtiff=big, byteorder=order, ome=ome) as tif:
        placed = tif.write(
            shape=shape[1:] if form == "one page" else shape,
            dtype=dtype,
            photometric="minisblack",
            resolution=None if size is None else (1 / size[2], 1 / size[1]),
            resolutionunit="NONE",
            description=None if ome else notes,
            extratags=() if ome else imagej_metadata_tag({"Info": info}, order),
            metadata=_ome_notes(size, info) if ome else None,
            software="napari-emseg",
            returnoffset=True,
        )
    if placed is None:
        msg = f"{path.name}: {shape} {dtype} could not be laid out as TIFF"
        raise ValueError(msg)
    if form == "one page":
        os.truncate(path, int(placed[0]) + prod(shape) * dtype.itemsize)
    return int(placed[0])


def _info(made: Provenance | None) -> str:
    return json.dumps({"emseg": made.model_dump()} if made else {})


def _as_imagej(text: str) -> bytes:
    return text.encode("utf-16-le" if _ORDER == "<" else "utf-16-be")


def _as_xml(text: str) -> bytes:
    return escape(text, {'"': "&quot;"}).encode()


def _imagej_notes(
    shape: tuple[int, int, int], size: VoxelSize | None, made: Provenance | None
) -> str:
    """Return ImageJ's description: unit, distance of sections, range to show."""
    notes: dict[str, Any] = {}
    if size is not None:
        notes["unit"] = "nm"
        notes |= {} if size[0] is None else {"spacing": size[0]}
    if made is not None and made.kind in PROBABILITIES:
        notes |= {"min": 0.0, "max": made.scale}
    return imagej_description(shape, axes="ZYX", **notes)


def _ome_notes(size: VoxelSize | None, info: str) -> dict[str, Any]:
    notes: dict[str, Any] = {"axes": "ZYX", "Description": info}
    for axis, length in zip("ZYX", size or (None, None, None), strict=True):
        if length is not None:
            notes[f"PhysicalSize{axis}"] = length
            notes[f"PhysicalSize{axis}Unit"] = "nm"
    return notes
