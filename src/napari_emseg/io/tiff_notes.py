"""What a TIFF says beside its pixels: voxel size (OME, ImageJ, tags), provenance."""

from __future__ import annotations

import json
import re
from filecmp import cmp
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from pydantic import ValidationError
from tifffile import TiffFile, TiffPage

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import VoxelSize
from napari_emseg.io.claims import MOST_SECTIONS, check_count
from napari_emseg.io.errors import UnreadableError
from napari_emseg.io.units import to_nm, voxel_size

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
