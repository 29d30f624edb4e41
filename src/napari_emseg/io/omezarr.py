"""OME-Zarr 0.4 and 0.5, and plain Zarr arrays, read slab by slab of their chunks."""

from __future__ import annotations  # zarr 3.1.2 has no Array[Any]

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias
from zipfile import ZipFile

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError
from zarr.core.sync import sync
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore, ZipStore

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Origin, VoxelSize
from napari_emseg.io.claims import check_regular
from napari_emseg.io.errors import DAMAGE, UnreadableError, short_cause
from napari_emseg.io.volumes import (
    FileContents,
    Volume,
    array_volume,
    chunked,
    to_nm,
    unnamed_axes,
    voxel_size,
)

Notes: TypeAlias = dict[str, Any]

MARKS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
"""Files that make a folder a Zarr."""

MOST_PACKED, SMALL = 1000, 2**24
"""Larger files in a zip may unpack to so many times their size at most."""

_NEEDED = {
    2: ("shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters"),
    3: ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs"),
}
"""What the notes of an array must have, by version of Zarr."""

_DEEPEST = 4
"""Groups in groups that are looked into: plates have row, well and field."""


class _FilesOnly(LocalStore):
    """A folder in which pipes and devices are refused, which may be read for ever."""

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        """Return what is stored by a key, or None."""
        place = self.root / key
        if place.exists():
            check_regular(place)
        return await super().get(key, *args, **options)


def contents(path: Path | str) -> FileContents:
    """List the images and arrays of a Zarr store; an image at its root is the default.

    Notes are read as found rather than validated, since many writers bend the rules.

    Parameters
    ----------
    path
        Of a folder, a zipped one, or a URL that fsspec knows.

    Raises
    ------
    UnreadableError
        If what its notes say makes no sense; the library has words of its own for each
        of the ways in which that can be.
    OSError
        If it can't be reached.
    """
    try:
        return _contents(path)
    except (UnreadableError, MemoryError):
        raise
    except OSError as e:
        gone = isinstance(e, FileNotFoundError) and isinstance(path, Path)
        if not gone:
            raise
        raise UnreadableError(_explain(path, e)) from e
    except (*DAMAGE, zarr.errors.BaseZarrError) as e:
        raise UnreadableError(_explain(path, e)) from e


def _contents(path: Path | str) -> FileContents:
    if isinstance(path, Path) and path.is_file():
        root = zarr.open(ZipStore(path, mode="r"), path=_root_in_zip(path), mode="r")
    else:
        # an address goes to fsspec, a folder is read with care
        store = _FilesOnly(path, read_only=True) if isinstance(path, Path) else path
        root = zarr.open(store, mode="r")
    if isinstance(root, zarr.Array):
        return FileContents((_array(root, ""),), provenance=_provenance(root))
    volumes = tuple(_walk(root, ""))
    if not volumes:
        damage = _find_fault(Path(path)) if isinstance(path, Path) else ""
        msg = damage or "is a Zarr group without an image in it"
        raise UnreadableError(msg)
    only = len(volumes) == 1 or volumes[0].key == ""
    return FileContents(
        volumes,
        "dataset",
        0 if only else None,
        question="holds several images",
        provenance=_provenance(root),
    )


def _explain(path: Path | str, error: Exception) -> str:
    """Return what is wrong with the notes of a store, in words."""
    known = _find_fault(path) if isinstance(path, Path) else ""
    return known or f"its Zarr metadata can't be used ({short_cause(error)})"


def _find_fault(folder: Path) -> str:
    """Return what is wrong with the notes in a folder; empty if nothing is seen."""
    if not folder.is_dir():
        return ""
    # two folders down: enough for an image and the arrays of its levels
    nested = [*folder.glob("*/*"), *folder.glob("*/*/*")]
    found = [p for p in (*folder.iterdir(), *nested) if p.name in MARKS]
    for notes in found:
        if why := _fault(notes):
            return f"its {notes.relative_to(folder)} {why}"
    if any((folder / mark).is_file() for mark in MARKS if mark != ".zattrs"):
        return ""
    inner = next((p.parent for p in found if p.parent != folder), None)
    hint = "" if inner is None else f"; {inner.relative_to(folder)} in it has"
    return f"has none of {', '.join(MARKS[:3])}, the metadata of a Zarr{hint}"


def _fault(place: Path) -> str:
    """Return what is wrong with a file of notes; empty if nothing is seen."""
    try:
        check_regular(place)
        notes = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError):
        return "is damaged: it is no JSON"
    if not isinstance(notes, dict):
        return "is damaged: it is no JSON object"
    if place.name == ".zattrs":
        return ""
    version = 3 if place.name == "zarr.json" else 2
    if notes.get("zarr_format") != version:
        return f"has zarr_format {notes.get('zarr_format')!r} instead of {version}"
    kind = notes.get("node_type")
    if version == 3 and kind not in ("array", "group"):
        return f"has node_type {kind!r}, which is neither array nor group"
    needed = _NEEDED[2 if place.name == ".zarray" else 3]
    if place.name == ".zarray" or kind == "array":
        lacks = [repr(name) for name in needed if name not in notes]
        return f"is damaged: it lacks {', '.join(lacks)}" if lacks else ""
    return ""


def _root_in_zip(path: Path) -> str:
    """Return the folder of a zip file in which the Zarr lies; mostly the top.

    Raises
    ------
    UnreadableError
        If there is no Zarr in it, or it would unpack to much more than it is.
    """
    with ZipFile(path) as packed:
        for entry in packed.infolist():
            bomb = entry.file_size > MOST_PACKED * max(1, entry.compress_size)
            if bomb and entry.file_size > SMALL:
                msg = f"holds {entry.filename}, which unpacks to {entry.file_size:,} B"
                raise UnreadableError(msg)
        names = [PurePosixPath(name) for name in packed.namelist()]
    roots = {name.parent for name in names if name.name in MARKS}
    if not roots:
        msg = "is a zip file without a Zarr in it; unpack it, and open what is inside"
        raise UnreadableError(msg)
    # the outermost: groups and arrays in it have notes of their own
    return "/".join(min(roots, key=lambda folder: (len(folder.parts), folder)).parts)


def _walk(group: zarr.Group, key: str) -> Iterator[Volume]:
    """Yield the image of a group, or else what is in it; then its labels."""
    notes = _notes(group)
    images = notes.get("multiscales") or []
    if images:
        yield _image(group, _checked(images), key)
    if key.count("/") >= _DEEPEST:
        return
    with warnings.catch_warnings():
        # of files beside, such as webKnossos's
        warnings.simplefilter("ignore", ZarrUserWarning)
        members = sorted(group.members())
    for name, node in members:
        inner = f"{key}/{name}".strip("/")
        if isinstance(node, zarr.Group):
            yield from _walk(node, inner)
        elif not images and len(node.shape) > 1:
            yield _array(node, inner)


def _checked(images: object) -> Notes:
    """Return the first image of `multiscales`, if it names the arrays of its levels.

    Raises
    ------
    UnreadableError
        If not.
    """
    image = images[0] if isinstance(images, list) else None
    listed = image.get("datasets") if isinstance(image, dict) else None
    named = isinstance(listed, list) and all(
        isinstance(level, dict) and isinstance(level.get("path"), str)
        for level in listed
    )
    if not isinstance(image, dict) or not listed or not named:
        msg = "its OME-Zarr metadata doesn't name its arrays ('datasets' with 'path')"
        raise UnreadableError(msg)
    for level in listed:
        if ".." in PurePosixPath(level["path"]).parts:
            msg = f"its OME-Zarr metadata names an array outside it, {level['path']}"
            raise UnreadableError(msg)
    return image


def _notes(node: zarr.Group | zarr.Array[Any]) -> Notes:
    notes: Notes = dict(node.attrs)
    found = notes.get("ome", notes)
    return found if isinstance(found, dict) else {}


def _provenance(node: zarr.Group | zarr.Array[Any]) -> Provenance | None:
    try:
        return Provenance.model_validate(node.attrs.get("emseg"))
    except ValidationError:
        return None


def _array(array: zarr.Array[Any], key: str) -> Volume:
    names = getattr(array.metadata, "dimension_names", None) or ()
    axes = "".join(str(name)[:1].upper() for name in names)
    if len(axes) != array.ndim or not set("YX") <= set(axes) <= set("TCZYX"):
        axes = unnamed_axes(array.shape)
    return replace(_chunked(array, axes), key=key, words=key)


def _chunked(array: zarr.Array[Any], axes: str) -> Volume:
    # a shard is one file of several chunks, with an index at its end
    chunks = getattr(array, "shards", None) or array.chunks
    return chunked(array_volume(_Present(array), axes), axes, array.shape, chunks)


class _Present:
    """An array of a store that is there: a missing chunk holds the fill value.

    Where the store itself is gone or out of reach, all chunks are missing, and nothing
    is known of what they held.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.shape = array.shape
        self.dtype = np.dtype(array.dtype)
        self._array = array
        self._key = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        values = np.asarray(self._array[key])
        if self._may_be_missing(values) and not self._is_there():
            msg = "the store is no longer there, or can't be reached"
            raise UnreadableError(msg)
        return values

    def _may_be_missing(self, values: NDArray[Any]) -> bool:
        """Tell whether to look; always on a disk, where that costs next to nothing."""
        if isinstance(self._array.store, LocalStore):
            return True
        fill = self._array.metadata.fill_value
        # a fill value of NaN equals nothing, itself included
        same = values == fill if fill == fill else values != values
        return bool(np.all(same))

    def _is_there(self) -> bool:
        place = self._array.store_path / self._key
        if isinstance(place.store, LocalStore):
            return (Path(place.store.root) / place.path).is_file()
        return bool(sync(place.exists()))


def _image(group: zarr.Group, notes: Notes, key: str) -> Volume:
    levels: list[Volume] = []
    gone = 0
    for dataset in notes["datasets"]:
        array = group.get(dataset["path"])
        if array is None:
            # a smaller copy may never have been written; a larger one is missed
            gone += not levels
            continue
        if not isinstance(array, zarr.Array):
            msg = f"scale level {dataset['path']} is not an array"
            raise UnreadableError(msg)
        axes = _axes(notes, array.ndim)
        lengths, shift = _placed(notes, dataset, array.ndim)
        level = replace(
            _chunked(array, axes),
            voxel_size_nm=_voxel_size(notes, axes, lengths),
            origin_nm=_origin(notes, axes, shift),
            key=key,
            words=key or str(notes.get("name", "")),
        )
        levels.append(level)
    if not levels:
        paths = ", ".join(str(dataset["path"]) for dataset in notes["datasets"])
        msg = f"its scale levels are missing: {paths}"
        raise UnreadableError(msg)
    # the standard asks for the largest first, but not all writers keep to it
    levels.sort(key=lambda level: -prod(level.shape))
    return replace(levels[0], levels=tuple(levels[1:]), gone=gone)


def _axes(notes: Notes, ndim: int) -> str:
    """Return a letter for each axis; before 0.4 they had only names, or none."""
    listed = notes.get("axes") or list("tczyx"[-ndim:])
    if not isinstance(listed, list) or len(listed) != ndim:
        n = len(listed) if isinstance(listed, list) else repr(listed)
        msg = f"its OME-Zarr metadata has {n} axes, but its array has {ndim}"
        raise UnreadableError(msg)
    letters = ""
    for axis in listed:
        said = axis if isinstance(axis, dict) else {"name": axis}
        name, kind = str(said.get("name", "")), said.get("type")
        letter = {"time": "T", "channel": "C"}.get(str(kind), name[:1].upper())
        letters += letter if letter in "TCZYX" else "Q"
    return letters


def _placed(
    notes: Notes, dataset: Notes, ndim: int
) -> tuple[list[float] | None, list[float]]:
    """Return a voxel's length and the first one's place, in the units of the axes.

    None of the lengths is known where no scale is given; before 0.4 there was none.
    """
    scale, shift = np.ones(ndim), np.zeros(ndim)
    scaled = False
    # a level's transformations are applied before those of the whole image, so a later
    # scale also scales an earlier translation
    for holder in (dataset, notes):
        for move in holder.get("coordinateTransformations") or ():
            kind = move.get("type") if isinstance(move, dict) else repr(move)
            if kind not in ("scale", "translation") or kind not in move:
                continue
            values = _numbers(move[kind], kind, ndim)
            if kind == "scale":
                scale, shift, scaled = scale * values, shift * values, True
            else:
                shift = shift + values
    return (scale.tolist() if scaled else None), shift.tolist()


def _numbers(values: object, what: str, ndim: int) -> NDArray[np.float64]:
    """Return a number for each axis.

    Raises
    ------
    UnreadableError
        If there are more or fewer, or something else.
    """
    good = isinstance(values, list) and len(values) == ndim
    if not good or not all(type(value) in (int, float) for value in values):  # type: ignore[attr-defined]
        shown = repr(values)[:60]
        msg = f"its OME-Zarr metadata has the {what} {shown}, not {ndim} numbers"
        raise UnreadableError(msg)
    return np.asarray(values, float)


def _origin(notes: Notes, axes: str, shift: list[float]) -> Origin:
    """Return `(z, y, x)` of the first voxel; 0 along axes without a unit of length."""
    found = dict.fromkeys("ZYX", 0.0)
    listed = notes.get("axes") or ()
    units = [a.get("unit") if isinstance(a, dict) else None for a in listed]
    for axis, at, unit in zip(axes, shift, units, strict=False):
        nm = to_nm(abs(at), unit) if axis in found and at else None
        found[axis] = 0.0 if nm is None else float(np.copysign(nm, at))
    return found["Z"], found["Y"], found["X"]


def _voxel_size(
    notes: Notes, axes: str, lengths: list[float] | None
) -> VoxelSize | None:
    units = [a.get("unit") for a in notes.get("axes") or () if isinstance(a, dict)]
    if lengths is None or len(units) != len(axes):
        return None
    known = {
        axis: to_nm(length, unit)
        for axis, length, unit in zip(axes, lengths, units, strict=True)
    }
    return voxel_size(known.get("Z"), known.get("Y"), known.get("X"))
