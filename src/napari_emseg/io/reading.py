"""Open any file of EM sections: format by content, choices → a lazy stack."""

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Stack, VoxelSize, check_voxel_size
from napari_emseg.io.choosing import Along, AxisSelection, choose_volume, sections_of
from napari_emseg.io.errors import UnreadableError, Value, clear_errors
from napari_emseg.io.formats import FOLDER, SUFFIXES, ZARR, Format, recognise
from napari_emseg.io.volumes import FileContents


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
