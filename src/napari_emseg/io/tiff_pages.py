"""Parts of TIFFs: pages, strips and tiles read alone, and what their notes say."""

import json
import re
import weakref
from filecmp import cmp
from itertools import product
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import VoxelSize
from napari_emseg.io.claims import DEFLATE, MOST_SECTIONS, check_count, check_packed
from napari_emseg.io.claims import JPEG as JPEG_RATIO
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.volumes import ROWS, RawPlanes, to_nm, voxel_size

LARGEST_PIXEL_NM = 2000.0
"""Larger pixels are for printing (1,200 dpi is 21,167 nm), not of a microscope."""

_GATAN_UNITS, _GATAN_SCALES = (65003, 65004, 65005), (65009, 65010, 65011)
"""Tags of x, y and z."""

_OWN_UUID, _OME_HEAD = re.compile(r"<(?:\w+:)?OME\b[^>]*\bUUID=[\"']([^\"']+)"), 2**16
"""Where a file gives its own UUID, and in how many letters of its notes."""

_TAG_UNITS = {2: "inch", 3: "cm"}


def voxel_size_nm(tif: TiffFile, series: int) -> VoxelSize | None:
    """Return the voxel size of one series; None where the file says nothing."""
    if tif.ome_metadata:
        return _ome(tif.ome_metadata, series)
    page = tif.pages.first
    unit = (tif.imagej_metadata or {}).get("unit")
    if to_nm(1.0, unit) is not None:
        return _imagej(page, tif.imagej_metadata or {})
    return _fei(tif) or _zeiss(tif) or _gatan(page) or _resolution(page)


def _imagej(page: TiffPage, notes: dict[str, Any]) -> VoxelSize | None:
    """Return ImageJ's calibration; y and z have units of their own if these differ."""
    x_unit = notes["unit"]
    y_unit, z_unit = notes.get("yunit", x_unit), notes.get("zunit", x_unit)
    x, y = _tag(page, "XResolution", x_unit), _tag(page, "YResolution", y_unit)
    if x is None or y is None or max(x, y) > LARGEST_PIXEL_NM:
        return None
    return voxel_size(to_nm(notes.get("spacing"), z_unit), y, x)


def _ome(xml: str, series: int) -> VoxelSize | None:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = [e.attrib for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"]
    if series >= len(pixels):
        return None
    said = pixels[series]

    def length(axis: str) -> float | None:
        size = said.get(f"PhysicalSize{axis}", "")
        try:
            value = float(size)
        except ValueError:
            return None
        return to_nm(value, said.get(f"PhysicalSize{axis}Unit", "µm"))

    return voxel_size(length("Z"), length("Y"), length("X"))


def files_of_ome(tif: TiffFile, path: Path) -> tuple[Path, ...]:
    """Return the files that hold planes of an OME-TIFF, as far as it names them.

    Of a file that only points to the one with the notes, it is that one. Those that
    aren't there are left out.

    Raises
    ------
    UnreadableError
        If one lies outside of its folder: a file from someone else could name any.
    """
    if not tif.is_ome:
        return ()
    try:
        root = ElementTree.fromstring(tif.ome_metadata or "")
    except ElementTree.ParseError:
        return ()
    names = {
        e.get("FileName") or e.get("MetadataFile")
        for e in root.iter()
        if e.tag.rpartition("}")[2] in ("UUID", "BinaryOnly")
    }
    return _beside(path, {name for name in names if name})


def check_parts(tif: TiffFile, path: Path) -> None:
    """Refuse an OME-TIFF with a part that isn't the file that its notes mean.

    They list parts by name and UUID, and each part has its own; by name alone, parts
    that were renamed or overwritten would be taken for one another. Where all have one
    and the same, though not the same content, their program didn't tell them apart.

    Raises
    ------
    UnreadableError
        If a part has another UUID than is listed for its name.
    """
    listed = _listed_parts(tif)
    if len(listed) < 2:
        return
    folder = path.resolve().parent
    own = {name: _own_uuid(folder / name) for name in listed}
    here = {name: uuid for name, uuid in own.items() if uuid}
    # one UUID in all files: their program didn't tell parts
    # apart, unless it's one file twice
    if len(set(here.values())) == 1 < len(here):
        first, *others = (folder / name for name in here)
        if not any(cmp(first, other, shallow=False) for other in others):
            return
    wrong = {name: uuid for name, uuid in here.items() if uuid != listed[name]}
    if not wrong:
        return
    name, uuid = next(iter(wrong.items()))
    meant = next((n for n, u in listed.items() if u == uuid), "")
    what = f"{meant} of this stack" if meant else "no part of this stack"
    msg = (
        f"has a part {name} that was renamed or overwritten: by its UUID it is {what}; "
        "put the files back as they were saved"
    )
    raise UnreadableError(msg)


def _listed_parts(tif: TiffFile) -> dict[str, str]:
    """Return the UUID of each file that an OME-TIFF lists as a part, by name."""
    try:
        root = ElementTree.fromstring((tif.is_ome and tif.ome_metadata) or "")
    except ElementTree.ParseError:
        return {}
    return {
        e.get("FileName", ""): _bare(e.text)
        for e in root.iter()
        if e.tag.rpartition("}")[2] == "UUID" and e.get("FileName") and e.text
    }


def _own_uuid(path: Path) -> str:
    """Return the UUID that an OME-TIFF gives itself; empty if none can be read."""
    try:
        with TiffFile(path) as tif:
            head = (tif.ome_metadata or "")[:_OME_HEAD]
    except (OSError, ValueError):
        return ""
    found = _OWN_UUID.search(head)
    return _bare(found[1]) if found else ""


def _bare(uuid: str) -> str:
    return uuid.strip().lower().removeprefix("urn:uuid:")


def missing_part(tif: TiffFile, nth: int) -> str:
    """Return the name of the file that plane `nth` of an OME-TIFF should be in.

    Empty where that can't be told, such as in files of several pictures.
    """
    try:
        root = ElementTree.fromstring((tif.is_ome and tif.ome_metadata) or "")
        (pixels,) = (e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels")
        # "XYZCT" backwards without XY: slowest first, as `ravel_multi_index` wants it
        axes = pixels.attrib["DimensionOrder"][:1:-1]
        over = [int(pixels.attrib[f"Size{axis}"]) for axis in axes]
        for data in pixels.iter():
            uuid = next((e for e in data if e.tag.rpartition("}")[2] == "UUID"), None)
            if data.tag.rpartition("}")[2] != "TiffData" or uuid is None:
                continue
            index = [int(data.get(f"First{axis}", 0)) for axis in axes]
            first = int(np.ravel_multi_index(index, over))
            if first <= nth < first + int(data.get("PlaneCount", 1)):
                return uuid.get("FileName", "")
    except (ElementTree.ParseError, KeyError, ValueError):
        pass
    return ""


def _beside(path: Path, names: set[str]) -> tuple[Path, ...]:
    folder = path.resolve().parent
    places = {folder / name for name in names}
    for place in places:
        if not place.resolve().is_relative_to(folder):
            msg = f"says that {place.name} of another folder is a part of it"
            raise UnreadableError(msg)
    return tuple(sorted(place for place in places if place.is_file()))


def check_ome(tif: TiffFile, pages: int) -> None:
    """Refuse OME-XML that claims more planes than there can be.

    A list of all of them is made when it is looked at. Planes may lie in other files,
    which the number of pages says nothing about.

    Raises
    ------
    UnreadableError
        If one picture has so many.
    """
    if not tif.is_ome or not tif.ome_metadata:
        return
    try:
        root = ElementTree.fromstring(tif.ome_metadata)
    except ElementTree.ParseError:
        return
    for element in root.iter():
        sizes = [element.get(f"Size{axis}", "1") for axis in "ZCT"]
        if all(size.isdecimal() for size in sizes):
            planes = prod(map(int, sizes))
            check_count(planes, max(MOST_SECTIONS, pages), "planes", "its OME-XML")


def _tag(page: TiffPage, name: str, unit: object) -> float | None:
    """Return nm per pixel from a tag that holds pixels per unit."""
    value = page.tags.valueof(name)
    if not isinstance(value, tuple) or len(value) != 2 or not all(value):
        return None
    return to_nm(value[1] / value[0], unit)


def _resolution(page: TiffPage) -> VoxelSize | None:
    unit = _TAG_UNITS.get(page.tags.valueof("ResolutionUnit", 2))
    x, y = _tag(page, "XResolution", unit), _tag(page, "YResolution", unit)
    if x is None or y is None or max(x, y) > LARGEST_PIXEL_NM:
        return None
    return voxel_size(None, y, x)


def _fei(tif: TiffFile) -> VoxelSize | None:
    """Return the pixel size in the notes of FEI / Thermo Fisher microscopes."""
    scan = (tif.fei_metadata or {}).get("Scan", {})
    x, y = (to_nm(scan.get(key), "m") for key in ("PixelWidth", "PixelHeight"))
    return voxel_size(None, y, x)


def _zeiss(tif: TiffFile) -> VoxelSize | None:
    """Return the pixel size in the notes of Zeiss's scanning microscopes."""
    notes = tif.sem_metadata or {}
    for name in ("ap_image_pixel_size", "ap_pixel_size"):
        said = notes.get(name, ())
        if len(said) == 3 and (size := to_nm(said[1], said[2])) is not None:
            return voxel_size(None, size, size)
    unnamed = notes.get("", ())
    if len(unnamed) < 4 or not isinstance(unnamed[3], float):
        return None
    # in m, of a picture 1,024 px wide
    size = to_nm(unnamed[3] * 1024 / tif.pages.first.imagewidth, "m")
    return voxel_size(None, size, size)


def _gatan(page: TiffPage) -> VoxelSize | None:
    """Return the calibration that DigitalMicrograph writes, a unit for each axis."""
    x, y, z = (
        to_nm(page.tags.valueof(scale), page.tags.valueof(unit))
        for scale, unit in zip(_GATAN_SCALES, _GATAN_UNITS, strict=True)
    )
    return voxel_size(z, y, x)


def provenance(tif: TiffFile) -> Provenance | None:
    """Return how a file of ours came to be; None for any other file."""
    found: Any = (tif.imagej_metadata or {}).get("Info")
    if not isinstance(found, str) and tif.ome_metadata:
        found = _ome_description(tif.ome_metadata)
    try:
        return Provenance.model_validate(json.loads(found)["emseg"])
    except (TypeError, ValueError, KeyError, ValidationError):
        return None


def _ome_description(xml: str) -> str | None:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    tags = (e for e in root.iter() if e.tag.rpartition("}")[2] == "Description")
    return next((e.text for e in tags), None)


JPEG = (6, 7, 33007, 34892)
"""Compressions whose tables may stand in the page's notes."""


class Pages:
    """Reads pages of an open file from any thread; closes it when no longer used."""

    def __init__(self, path: Path, tif: TiffFile) -> None:
        self.path = path
        self.tif = tif
        tif.filehandle.set_lock(True)
        # The file's own lock: values are read under it too, which moves the file.
        self.lock = tif.filehandle.lock
        weakref.finalize(self, tif.close)

    def read(self, series: TiffPageSeries, nth: int) -> NDArray[Any]:
        """Return page `nth` of a series as stored."""
        with self.lock:
            # pages are parsed when first asked for, which moves the file
            page = self._page(series, nth)
            if page.parent is not self.tif:
                return self._read_elsewhere(page)
            self._check(page, series)
        return np.asarray(page.asarray())

    def read_part(
        self, series: TiffPageSeries, nth: int, rows: slice, columns: slice
    ) -> NDArray[Any]:
        """Return rows and columns of page `nth`, which `chunk_of` says can be cut."""
        with self.lock:
            page = self._page(series, nth)
            if page.parent is not self.tif:
                return self._read_elsewhere(page)[rows, columns]
            self._check(page, series)
        like = page.keyframe or series.keyframe
        y, x = (range(n)[s] for n, s in zip(like.shape, (rows, columns), strict=True))
        if like.is_contiguous:
            return self._rows(page, like, y)[:, columns]
        return self._segments(page, like, y, x)

    def _rows(
        self, page: TiffPage | TiffFrame, like: TiffPage, y: range
    ) -> NDArray[Any]:
        """Read rows that lie one after the other, as they are."""
        dtype = np.dtype(like.dtype).newbyteorder(self.tif.byteorder)
        first = page.dataoffsets[0]
        planes = RawPlanes(self.path, first, dtype, like.shape, tail=2)
        return planes.rows((), slice(y.start, y.stop))

    def _segments(
        self, page: TiffPage | TiffFrame, like: TiffPage, y: range, x: range
    ) -> NDArray[Any]:
        """Decode the strips or tiles that have some of the rows and columns."""
        height, width = like.chunks
        out = np.zeros((len(y), len(x)), like.dtype)
        down = range(y.start // height, -(-y.stop // height))
        across = range(x.start // width, -(-x.stop // width))
        tables = {"jpegtables": page.jpegtables, "jpegheader": like.jpegheader}
        options = tables if like.compression in JPEG else {}
        for row, column in product(down, across):
            index = row * like.chunked[1] + column
            # the lock is held for reading alone: decoding
            # goes on in several threads at once
            data = self._bytes(page, index)
            decoded = like.decode(data, index, _fullsize=like.is_tiled, **options)[0]
            top, left = row * height, column * width
            if decoded is None:
                out[_cut(y, top, height), _cut(x, left, width)] = like.nodata
                continue
            # tifffile decodes to (depth, length, width, samples); the first and the
            # last are 1 here
            values = decoded.reshape(-1, decoded.shape[-2])
            seen = values[_seen(y, top, height), _seen(x, left, width)]
            out[_cut(y, top, height), _cut(x, left, width)] = seen
        return out

    def _bytes(self, page: TiffPage | TiffFrame, index: int) -> bytes | None:
        """Read what is stored of a strip or tile; None: nothing."""
        count = page.databytecounts[index]
        if not count:
            return None
        with self.lock:
            self.tif.filehandle.seek(page.dataoffsets[index])
            return bytes(self.tif.filehandle.read(count))

    def _page(self, series: TiffPageSeries, nth: int) -> TiffPage | TiffFrame:
        page = series[nth]
        if page is None:
            part = missing_part(self.tif, nth) or "another one"
            msg = f"page {nth} is missing; the file says it is in {part}"
            if part != "another one":
                msg += ", which can't be read or isn't there under this name"
            raise UnreadableError(msg)
        return page

    def _read_elsewhere(self, page: TiffPage | TiffFrame) -> NDArray[Any]:
        """Read a page of an OME series that spans files, which tifffile closes."""
        handle = page.parent.filehandle
        handle.open()
        try:
            return np.asarray(page.asarray())
        finally:
            handle.close()

    def _check(self, page: TiffPage | TiffFrame, series: TiffPageSeries) -> None:
        size = self.tif.filehandle.size
        ends = zip(page.dataoffsets, page.databytecounts, strict=False)
        if not page.dataoffsets or max(a + n for a, n in ends) > size:
            msg = f"page {page.index} is cut short, the file ends before its values"
            raise UnreadableError(msg)
        # tifffile would fill in zeros.
        stored = min(len(page.dataoffsets), len(page.databytecounts))
        like = page.keyframe or series.keyframe
        needed = 1 if like.is_contiguous else prod(like.chunked)
        if stored < needed:
            msg = f"page {page.index} has {stored} of {needed} strips or tiles only"
            raise UnreadableError(msg)
        check_page(page, like)
        if series.kind == "uniform" and page.aspage().shape != series.keyframe.shape:
            msg = (
                f"page {page.index} is {page.aspage().shape}, "
                f"where {series.keyframe.shape} was expected"
            )
            raise UnreadableError(msg)


_RATIOS = {
    **dict.fromkeys((1, 32771), 1),
    **dict.fromkeys((8, 32946, 34933, 50013), DEFLATE),
    **dict.fromkeys((6, 7, 33007), JPEG_RATIO),
    32773: 64,  # PackBits: 128 bytes of two
    5: 2560,  # LZW: a string of 3,839 bytes in a code of 12 bits
    34925: 7100,  # LZMA
    50000: 43_700,  # Zstandard: 128 KiB in three bytes
}
"""Bytes that a byte of a compression can stand for; of others there is no bound."""


def check_page(page: TiffPage | TiffFrame, like: TiffPage | None = None) -> None:
    """Refuse a page that claims more pixels than its strips or tiles can hold.

    Those of which nothing is stored are sparse, and stand for nothing.

    Raises
    ------
    UnreadableError
        If they can't.
    """
    like = like or page.aspage()
    ratio = _RATIOS.get(like.compression)
    stored = [n for n in page.databytecounts if n > 0]
    if ratio is None or like.dtype is None or not stored:
        return
    bits = max(1, min(8, like.bitspersample))  # fewer than eight become a byte
    # of a sparse page only the strips that are stored have to hold their pixels
    claimed = min((like.shape, (len(stored), *like.chunks)), key=prod)
    check_packed(claimed, like.dtype.itemsize, sum(stored) * (8 // bits), ratio)


def chunk_of(series: TiffPageSeries) -> tuple[int, int] | None:
    """Return `(y, x)` of what can be read of a page at once; None: all of it."""
    like = series.keyframe
    if like.samplesperpixel > 1 or like.imagedepth > 1 or len(like.shape) != 2:
        return None
    if series.axes[-2:] != "YX" or tuple(series.shape[-2:]) != like.shape:
        return None
    if like.is_contiguous:
        plain = like.predictor == like.fillorder == 1
        return (min(ROWS, like.shape[0]), like.shape[1]) if plain else None
    if like.is_subsampled or like.chunks[0] >= like.shape[0]:
        return None
    height, width = like.chunks
    return height, min(width, like.shape[1])


def _cut(wanted: range, start: int, length: int) -> slice:
    """Return where a segment's part of what is wanted goes."""
    first = max(wanted.start, start)
    return slice(first - wanted.start, min(wanted.stop, start + length) - wanted.start)


def _seen(wanted: range, start: int, length: int) -> slice:
    """Return what of a segment is wanted."""
    return slice(max(wanted.start - start, 0), min(wanted.stop - start, length))
