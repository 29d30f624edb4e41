"""Open any file of EM sections: format by content, choices → a lazy stack."""

from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Stack, VoxelSize, check_voxel_size
from napari_emseg.io.claims import check_shape
from napari_emseg.io.errors import (
    AmbiguousFileError,
    UnreadableError,
    Value,
    clear_errors,
)
from napari_emseg.io.formats import FOLDER, SUFFIXES, ZARR, Format, recognise
from napari_emseg.io.sections import SectionArray
from napari_emseg.io.volumes import FileContents, Index, Volume

Along = int | Literal["z"]
"""A picture, frame or channel, or `z`: they are the sections."""

_COLOURS = {
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "alpha"),
}

LOSSY_SPREAD = 2
"""Colours of a grey pixel differ by so much at most in a JPEG of 8 bit."""


@dataclass(frozen=True, slots=True)
class AxisSelection:
    """What the user said about a file; None where nothing was said."""

    series: Along | None = None
    dataset: str | None = None
    level: int | None = None
    channel: Along | None = None
    time: Along | None = None

    @property
    def made(self) -> dict[str, Value]:
        """What was said, by option."""
        options = ("series", "dataset", "level", "channel", "time")
        said = {option: getattr(self, option) for option in options}
        return {option: value for option, value in said.items() if value is not None}


def choose_volume(contents: FileContents, choice: AxisSelection, name: str) -> Volume:
    """Return the volume that was chosen, or the only sensible one.

    Raises
    ------
    AmbiguousFileError
        If there are several.
    UnreadableError
        If it is a link that isn't followed.
    ValueError
        If there is no such series, dataset or level.
    """
    other = "dataset" if contents.option == "series" else "series"
    if getattr(choice, other) not in (None, 0):
        msg = f"{name}: has no {other} to choose"
        raise ValueError(msg)
    given = getattr(choice, contents.option)
    if given is None and contents.default is not None:
        return _level(contents.volumes[contents.default], choice.level, name)
    choices = [(v.key, v.summary) for v in contents.volumes]
    if given is None:
        raise AmbiguousFileError(name, contents.question, contents.option, choices)
    for volume in contents.volumes:
        if _same(volume.key, given):
            return _level(volume, choice.level, name)
    if (why := contents.refused.get(str(given).strip("/"))) is not None:
        msg = f"{name}: {why}"
        raise UnreadableError(msg)
    question = f"has no {contents.option} {given!r}"
    raise AmbiguousFileError(name, question, contents.option, choices)


def _same(key: Value, given: Value) -> bool:
    if isinstance(key, str):
        return key.strip("/") == str(given).strip("/")
    return key == given


def _level(volume: Volume, level: int | None, name: str) -> Volume:
    first, levels = volume.gone, (volume, *volume.levels)
    if 0 <= (level or 0) < first:
        choices: list[tuple[Value, str]] = [
            (nth, each.summary) for nth, each in enumerate(levels, start=first)
        ]
        question = f"scale level {level or 0} is missing"
        raise AmbiguousFileError(name, question, "level", choices)
    if level is None:
        return volume
    if not first <= level < first + len(levels):
        msg = f"{name}: level must be {first}..{first + len(levels) - 1}, got {level}"
        raise ValueError(msg)
    return levels[level - first]


def sections_of(volume: Volume, choice: AxisSelection, name: str) -> SectionArray:
    """Return the sections `(z, y, x)` of a volume, with time and channel chosen.

    Raises
    ------
    AmbiguousFileError
        If there is a time or channel axis, or real colour, and nothing was chosen.
    UnreadableError
        If there is nothing in it, or no real numbers.
    ValueError
        If the choice doesn't exist.
    """
    if 0 in volume.shape:
        msg = f"{name}: is empty, its shape is {volume.shape}"
        raise UnreadableError(msg)
    with clear_errors(name):
        check_shape(volume.shape)
    if volume.dtype.kind not in "biuf":
        msg = f"{name}: grey values must be real numbers, not {volume.dtype}"
        raise UnreadableError(msg)
    along, fixed = _axes(volume, choice, name)
    sample = _sample(volume, choice, along, fixed, name)
    lead = volume.axes[: -3 if "S" in volume.axes else -2]
    depth = volume.depth if along == "Z" else 1

    def read(first: int, last: int) -> NDArray[Any]:
        span: int | slice = first if depth == 1 else slice(first, last)
        index: Index = tuple(span if a == along else fixed.get(a, 0) for a in lead)
        values = volume.read(index)
        if "S" in volume.axes:
            picked = first if along == "S" else sample
            values = _one_sample(values, picked, lossy=volume.lossy)
        return values if values.ndim == 3 else values[None]

    sizes = volume.sizes
    shape = (sizes[along] if along else 1, sizes["Y"], sizes["X"])
    array = SectionArray(shape, volume.dtype, read, name=name, depth=depth)
    of_volume = volume.part
    if of_volume is not None and volume.chunk is not None and "S" not in volume.axes:

        def part(z: int, rows: slice, columns: slice) -> NDArray[Any]:
            index: Index = tuple(z if a == along else fixed.get(a, 0) for a in lead)
            return of_volume(index, rows, columns)

        array.read_parts(part, volume.chunk)
    return array


def _axes(
    volume: Volume, choice: AxisSelection, name: str
) -> tuple[str, dict[str, int]]:
    """Return the axis of the sections ("" if there is one section), and the rest."""
    sizes = volume.sizes
    along = "Z" if sizes.get("Z", 1) > 1 else ""
    fixed = {"Z": 0}
    for axis, option, given in (
        ("T", "time", choice.time),
        ("C", "channel", choice.channel),
    ):
        n = sizes.get(axis, 1)
        planes = axis == "C" and volume.planes and given is None
        if (given == "z" or planes) and n > 1 and not along:
            along = axis
        elif n > 1:
            fixed[axis] = _pick(name, option, given, n, sections=not along)
        elif axis == "T" or "S" not in sizes:
            _refuse(name, option, given)
        fixed.setdefault(axis, 0)
    if choice.channel == "z" and sizes.get("S", 1) > 1 and not along:
        along = "S"
    return along, fixed


def _pick(
    name: str, option: str, given: Along | None, n: int, *, sections: bool
) -> int:
    choices: list[tuple[Value, str]] = [(i, f"{option} {i} of {n}") for i in range(n)]
    if sections:
        choices.insert(0, ("z", "they are the sections"))
    if given is None:
        what = "points in time" if option == "time" else "channels"
        raise AmbiguousFileError(name, f"has {n} {what}", option, choices)
    if not isinstance(given, int) or not 0 <= given < n:
        raise AmbiguousFileError(name, f"has no {option} {given!r}", option, choices)
    return given


def _refuse(name: str, option: str, given: Along | None) -> None:
    if given not in (None, 0, "z"):
        msg = f"{name}: has no {option} {given!r}; it has one only"
        raise ValueError(msg)


def _sample(
    volume: Volume, choice: AxisSelection, along: str, fixed: dict[str, int], name: str
) -> int | None:
    """Return which sample of a pixel to read; None for grey stored as colour."""
    n = volume.sizes.get("S", 1)
    chosen = choice.channel
    if isinstance(chosen, int) and n > 1 and volume.sizes.get("C", 1) == 1:
        return _pick(name, "channel", chosen, n, sections=False)
    if n <= 2 or along == "S":
        return 0
    lead = volume.axes[:-3]
    index: Index = tuple(0 if axis == along else fixed.get(axis, 0) for axis in lead)
    if volume.depth > 1 and along == "Z":
        index = tuple(
            slice(0, 1) if a == along else i for a, i in zip(lead, index, strict=True)
        )
    with clear_errors(f"{name}, section 0"):
        values = volume.read(index)
    if n in _COLOURS and _is_grey(values, lossy=volume.lossy):
        return None
    names = _COLOURS.get(n, tuple(f"sample {i}" for i in range(n)))
    choices: list[tuple[Value, str]] = list(enumerate(names))
    if not along:
        choices.append(("z", "they are the sections"))
    raise AmbiguousFileError(name, "is a colour picture", "channel", choices)


def _one_sample(
    values: NDArray[Any], sample: int | None, *, lossy: bool
) -> NDArray[Any]:
    """Take one sample of `(…, y, x, s)`; None takes the grey that all samples share.

    Raises
    ------
    UnreadableError
        If the samples differ.
    """
    if sample is not None:
        return values[..., sample]
    if not _is_grey(values, lossy=lossy):
        msg = "is a colour picture, while others here are grey; choose a channel"
        raise UnreadableError(msg)
    return values[..., 1]


def _is_grey(values: NDArray[Any], *, lossy: bool) -> bool:
    """Red, green and blue agree; in JPEG up to what it makes of a grey picture."""
    red, green, blue = (values[..., i] for i in range(3))
    if np.array_equal(red, green) and np.array_equal(green, blue):
        return True
    if not lossy:
        return False
    spread = np.maximum(np.maximum(red, green), blue).astype(np.int64)
    spread -= np.minimum(np.minimum(red, green), blue)
    return int(spread.max()) <= LOSSY_SPREAD


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
