"""Open any file of EM sections: format by content, choices → a lazy stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Protocol, cast

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Stack, VoxelSize, check_voxel_size
from napari_emseg.io.choosing import Along, AxisSelection, choose_volume, sections_of
from napari_emseg.io.claims import check_regular
from napari_emseg.io.errors import UnreadableError, Value, clear_errors
from napari_emseg.io.volumes import FileContents

HEAD = 2056
"""Bytes from a file's start by which its format is known."""


class FormatModule(Protocol):
    """What a module such as `io.tiff` has; imported when such a file is opened."""

    def contents(self, path: Path) -> FileContents:
        """List the volumes of a file without reading their values."""


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file: its names, how its content is known, and who reads it."""

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    module: str

    def contents(self, path: Path) -> FileContents:
        """List the volumes of a file without reading their values."""
        module = import_module(f"napari_emseg.io.{self.module}")
        return cast("FormatModule", module).contents(path)


def _begins(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


def _is_hdf5(head: bytes) -> bool:
    return any(head[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048))


def _is_mrc(head: bytes) -> bool:
    return head[208:211] == b"MAP"


def _is_dm(head: bytes) -> bool:
    dm3 = head[:4] == b"\0\0\0\3" and head[8:12] in (b"\0\0\0\0", b"\0\0\0\1")
    dm4 = head[:4] == b"\0\0\0\4" and head[12:16] in (b"\0\0\0\0", b"\0\0\0\1")
    return dm3 or dm4


FORMATS: tuple[Format, ...] = (
    Format(
        "TIFF",
        (".tif", ".tiff"),
        _begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "tiff",
    ),
    Format(
        "picture",
        (".png", ".jpg", ".jpeg"),
        _begins(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"),
        "picture",
    ),
    Format("HDF5", (".h5", ".hdf5", ".hdf", ".he5", ".emd"), _is_hdf5, "hdf5"),
    Format("MRC", (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali"), _is_mrc, "mrc"),
    Format("DM", (".dm3", ".dm4"), _is_dm, "dm"),
    Format("npy", (".npy",), _begins(b"\x93NUMPY"), "npy"),
    Format("OME-Zarr", (".ozx", ".zarr.zip"), _begins(b"PK\3\4"), "omezarr"),
    Format("compressed", (".gz", ".bz2"), _begins(b"\x1f\x8b", b"BZh"), "compressed"),
)
ZARR = Format("OME-Zarr", (".zarr",), lambda head: False, "omezarr")
FOLDER = Format("folder", (), lambda head: False, "folder")

KINDS = ("TIFF", "PNG", "JPEG", "MRC", "DM3/DM4", "HDF5", "OME-Zarr", "npy")
SECTION_SUFFIXES = frozenset(
    s for f in FORMATS if f.module != "omezarr" for s in f.suffixes
)
"""Names of files that a folder of sections takes for sections."""
SUFFIXES = tuple(s for f in (*FORMATS, ZARR) for s in f.suffixes)
"""Names of files that `open_stack` reads, as a hint; the content decides."""


def recognise(path: Path) -> Format:
    """Return the format of an existing file or folder, by its content.

    Raises
    ------
    UnreadableError
        If it is empty, not what its name says, or of no known format.
    """
    check_regular(path)
    if path.is_dir():
        marks = (".zattrs", ".zgroup", ".zarray", "zarr.json")
        marked = any((path / mark).exists() for mark in marks)
        if marked or path.suffix.lower() in ZARR.suffixes:
            return ZARR
        _refuse_n5(path)
        return FOLDER
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        msg = "is empty (0 bytes)"
        raise UnreadableError(msg)
    for known in FORMATS:
        if known.recognises(head):
            return known
    return _by_name(path, head)


def _refuse_n5(folder: Path) -> None:
    """Refuse a folder that is N5, or lies in one."""
    notes = folder / "attributes.json"
    inside = any(place.suffix.lower() == ".n5" for place in (folder, *folder.parents))
    if not inside and notes.is_file():
        head = notes.read_bytes()[:HEAD]
        inside = b'"blockSize"' in head or b'"n5"' in head
    if inside:
        msg = (
            "is N5, which isn't read; Fiji opens it by File › Import › "
            "HDF5/N5/Zarr/OME-NGFF, and saves it as OME-Zarr or HDF5"
        )
        raise UnreadableError(msg)


def _by_name(path: Path, head: bytes) -> Format:
    """Return the format of a file that bears no mark: an old MRC, or an error."""
    suffix = path.suffix.lower()
    named = next((f for f in FORMATS if suffix in f.suffixes), None)
    if named is not None and named.name == "MRC":
        return named
    begins = f"it begins with {head[:8]!r}"
    if named is not None:
        msg = f"is no {named.name} file in spite of its name; {begins}"
    else:
        msg = f"is of no known format ({begins}); known are {', '.join(KINDS)}"
    raise UnreadableError(msg)


def open_stack(
    path: str | PathLike[str],
    *,
    voxel_size_nm: VoxelSize | None = None,
    dataset: str | None = None,
    series: Along | None = None,
    level: int | None = None,
    channel: Along | None = None,
    time: Along | None = None,
) -> Stack:
    """Open a file, a folder or a glob of sections as a lazy stack.

    Nothing but headers is read here (and one section of a colour picture, to see
    whether it is really grey).

    Parameters
    ----------
    path
        TIFF, PNG, JPEG, MRC, DM3/DM4, HDF5, OME-Zarr, npy, a folder of sections in the
        order of the numbers in their names, or a glob such as `raw/*.png`. An OME-Zarr
        may also be a URL that fsspec knows (`https://…`, `s3://…`).
    voxel_size_nm
        `(z, y, x)`; wins over what the file says.
    dataset
        Path of the array in an HDF5 or Zarr file.
    series
        Number of the picture in a file with several; `"z"` says that they are the
        sections.
    level
        Scale level, 0 is the full resolution and the default.
    channel, time
        Which one, counted from 0; `"z"` says that they are the sections.

    Raises
    ------
    AmbiguousFileError
        If the file holds several stacks, a time or channel axis, or real colour.
    FileNotFoundError
        If there is no such file.
    OSError, ValueError
        If the file is damaged, empty, not what it says, or a choice doesn't exist.
    """
    size = None if voxel_size_nm is None else check_voxel_size(voxel_size_nm)
    choice = AxisSelection(series, dataset, level, channel, time)
    source, name, known, contents = _look(path)
    volume = choose_volume(contents, choice, name)
    sections = sections_of(volume, choice, name)
    provenance = contents.provenance
    stack = Stack(
        sections,
        name=_stem(name),
        voxel_size_nm=_believable(volume.voxel_size_nm, size, name),
        source=source,
        metadata={
            "format": known.name,
            "axes": volume.axes,
            "choice": choice.made,
            **({"files": list(map(str, contents.files))} if contents.files else {}),
            **({"remarks": list(contents.remarks)} if contents.remarks else {}),
            **({} if provenance is None else {"emseg": provenance.model_dump()}),
        },
        origin_nm=volume.origin_nm,
    )
    return stack.with_voxel_size(size)


def _believable(
    said: VoxelSize | None, given: VoxelSize | None, name: str
) -> VoxelSize | None:
    """Return the voxel size that a file says, unless it can't be meant.

    Raises
    ------
    UnreadableError
        If it can't be, and none is given instead.
    """
    try:
        return None if said is None else check_voxel_size(said)
    except ValueError as e:
        if given is not None:
            return None
        msg = f"{name}: its voxel size makes no sense, give the right one: {e}"
        raise UnreadableError(msg) from e


@dataclass(frozen=True, slots=True)
class Item:
    """One stack of a file; `shapes` are those of its scale levels, `axes` theirs."""

    key: Value
    words: str
    axes: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    voxel_size_nm: VoxelSize | None


@dataclass(frozen=True, slots=True)
class Description:
    """What a file holds; `option` (`series` or `dataset`) chooses among the items.

    `default` is the index of the item that is opened when nothing is chosen, or None.
    """

    source: str
    format: str
    option: str
    items: tuple[Item, ...]
    default: int | None
    provenance: Provenance | None


def describe(path: str | PathLike[str]) -> Description:
    """List the series or datasets of a file, with shapes and scale levels.

    Raises
    ------
    OSError, ValueError
        As `open_stack`, but it never asks for a choice.
    """
    source, _, known, found = _look(path)
    items = tuple(
        Item(
            volume.key,
            volume.words,
            volume.axes,
            tuple(level.shape for level in (volume, *volume.levels)),
            str(volume.dtype),
            volume.voxel_size_nm,
        )
        for volume in found.volumes
    )
    return Description(
        source, known.name, found.option, items, found.default, found.provenance
    )


def read_provenance(path: str | PathLike[str]) -> Provenance | None:
    """Return how a file of ours came to be; None for any other file."""
    return _look(path)[3].provenance


def _look(path: str | PathLike[str]) -> tuple[str, str, Format, FileContents]:
    """Return the source, its name for messages, its format and its contents."""
    text = fspath(path)
    if "://" in text:
        return _look_at_url(text)
    place = Path(text).expanduser()
    if not place.exists() and any(c in text for c in "*?["):
        from napari_emseg.io.folder import contents_of_files, find_files

        found = find_files(text)
        if not found:
            msg = f"no file matches {text}"
            raise FileNotFoundError(msg)
        if len(found) > 1:
            with clear_errors(text):
                return text, text, FOLDER, contents_of_files(found, text)
        place = found[0]
    if not place.exists():
        msg = f"no such file or folder: {text}"
        raise FileNotFoundError(msg)
    with clear_errors(place.name):
        known = recognise(place)
        return str(place), place.name, known, known.contents(place)


def _look_at_url(url: str) -> tuple[str, str, Format, FileContents]:
    """Return what `_look` does of an OME-Zarr anywhere that fsspec reaches."""
    from napari_emseg.io import omezarr

    name = url.rstrip("/").rpartition("/")[2]
    try:
        with clear_errors(url):
            return url, name, ZARR, omezarr.contents(url)
    except ImportError as e:
        msg = f"{url}: {e}"
        raise UnreadableError(msg) from e


def _stem(name: str) -> str:
    """Return a file's name without its known endings."""
    stem = Path(name).name
    while (cut := Path(stem)).suffix.lower() in (
        *SUFFIXES,
        ".ome",
        ".zip",
    ) and cut.stem:
        stem = cut.stem
    return stem
