"""What a TIFF says beside its pixels: voxel size (OME, ImageJ, tags), provenance."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
