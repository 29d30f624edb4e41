"""A folder or glob of files, one section each, in the order of their numbers."""

import glob
import math
import os
import re
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_emseg.io.errors import OtherFolderError, UnreadableError, clear_errors
from napari_emseg.io.formats import FORMATS, SECTION_SUFFIXES, recognise
from napari_emseg.io.output import may_be_section
from napari_emseg.io.volumes import FileContents, Index, Volume

LOOKED_AT = 256
"""Headers that are compared at once; with more files, others show when they're read."""

MOST_MISSING = 10
"""Numbers from the first to the last for each file; where more, they aren't counted."""


def natural(path: Path) -> list[tuple[int, int, str]]:
    """Sort key by which `s2.png` comes before `s10.png`."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


def find_files(pattern: str) -> list[Path]:
    """Return what matches a pattern such as `raw/*.png`.

    Brackets in the names of folders that exist are no pattern; nor are any, if nothing
    matches them as one.
    """
    place = Path(pattern).expanduser()
    folder, rest = Path(), list(place.parts)
    while len(rest) > 1 and (folder / rest[0]).exists():
        folder /= rest.pop(0)
    start, end = glob.escape(str(folder)), os.path.join(*rest)
    for wanted in (end, end.replace("[", "[[]")):
        if found := glob.glob(os.path.join(start, wanted)):
            return [Path(p) for p in found]
    return []


def contents(path: Path) -> FileContents:
    """Return the sections of a folder as one volume."""
    files = [p for p in path.iterdir() if may_be_section(p) and p.is_file()]
    if not files and (path / "project.json").is_file():
        msg = (
            f"{path.name}: is a project and no stack; name its stack instead, or work "
            "on it in a batch, which takes projects"
        )
        raise OtherFolderError(msg)
    if not files:
        msg = (
            f"{path.name}: has no sections in it "
            f"({', '.join(sorted(SECTION_SUFFIXES))})"
        )
        raise OtherFolderError(msg)
    return contents_of_files(files, path.name)


def contents_of_files(files: list[Path], name: str) -> FileContents:
    """Return files of one section each as one volume, in natural order.

    A single file is opened as itself. Files that can't be read only matter when their
    section is read, unless there are no others.

    Raises
    ------
    UnreadableError
        If there are several kinds of files, or sections of unlike size or type.
    """
    files = _in_order(files)
    _one_kind(files, name)
    parts = files if len(files) == 1 else spread_over(files)
    if parts is not None:
        found = recognise(parts[0]).contents(parts[0])
        return replace(found, files=(parts[0], *found.files))
    first, like = _compare(files)

    def read(index: Index) -> NDArray[Any]:
        path = files[index[0]]
        volume = _section(path)
        _check_alike(first, like, path, volume)
        with clear_errors(path.name):
            return volume.read(())

    shape = (len(files), *like.shape)
    volume = Volume("Z" + like.axes, shape, like.dtype, read, like.voxel_size_nm)
    missing = missing_numbers(files)
    return FileContents(
        (volume,),
        notes={"files": [p.name for p in files]},
        files=tuple(files),
        remarks=(missing,) if missing else (),
    )


def _in_order(files: list[Path]) -> list[Path]:
    """Return files in natural order; a hyphen is a minus where others have none."""
    found = [re.fullmatch(r"(\D*?)(-?\d+)(\D*)", path.name) for path in files]
    ends = {(name[1], name[3]) for name in found if name}
    if len(ends) == 1 and all(found):
        numbers = [name[2] for name in found if name]
        if 0 < sum(n.startswith("-") for n in numbers) < len(files):
            return sorted(files, key=lambda p: int(numbers[files.index(p)]))
    return sorted(files, key=natural)


def spread_over(files: list[Path]) -> list[Path] | None:
    """Return the files of the one OME-TIFF that `files` are; None if they aren't one.

    The first of them can be opened for all.

    Raises
    ------
    UnreadableError
        If they are a part of it only, or others are among them.
    """
    parts = _parts(files[0])
    if len(parts) < 2:
        return None
    given, known = ({p.resolve() for p in some} for some in (files, parts))
    if given == known:
        return parts
    other = next(iter(sorted(given - known)), None)
    if other is not None:
        msg = f"{files[0].name} is spread over {len(parts)} files, and {other.name} is "
        msg += f"none of them; open {parts[0].name} alone"
    else:
        msg = f"{files[0].name} is one of {len(parts)} files of a stack; open all or it"
    raise UnreadableError(msg)


def _parts(path: Path) -> list[Path]:
    """Return the files of an OME-TIFF, first the one that lists them; else itself."""
    from napari_emseg.io.tiff import spanned_files

    parts: tuple[Path, ...] = ()
    with suppress(OSError, ValueError), clear_errors(path.name):
        if recognise(path).name == "TIFF":
            parts = spanned_files(path)
            if len(parts) == 1 and parts[0].resolve() != path.resolve():
                path = parts[0]  # which has the notes of all
                parts = spanned_files(path)
    others = [p for p in parts if p.resolve() != path.resolve()]
    return [path, *others]


def drop_parts(files: list[Path]) -> list[Path]:
    """Return the files that can be opened for all of the stacks that `files` hold.

    Of an OME-TIFF that is spread over several of them, that is the first one only.
    """
    kept: list[Path] = []
    parts: set[Path] = set()
    for path in files:
        if path.resolve() in parts:
            continue
        if len(files) > 1 and path.suffix.lower() in (".tif", ".tiff"):
            found = _parts(path)
            parts |= {p.resolve() for p in found}
            path = found[0] if found[0] in files else path
        kept.append(path)
    return kept


def missing_numbers(files: list[Path]) -> str:
    """Say which numbers are missing in names that differ by one number; empty if none.

    They may be a constant number apart. Where most are missing, they count something
    else, such as seconds.
    """
    names = [re.split(r"(\d+)", path.name) for path in files]
    if len({(len(name), *name[::2]) for name in names}) > 1:
        return ""
    numbers_of = [map(int, name[1::2]) for name in names]
    columns = [set(column) for column in zip(*numbers_of, strict=True)]
    varying = [column for column in columns if len(column) > 1]
    if len(varying) != 1 or len(varying[0]) < len(files):
        return ""
    numbers = sorted(varying[0])
    step = math.gcd(*(b - a for a, b in pairwise(numbers)))
    everything = range(numbers[0], numbers[-1] + 1, step)
    if not len(files) < len(everything) <= MOST_MISSING * len(files):
        return ""
    runs = describe_runs(sorted(set(everything) - varying[0]), step)
    return f"numbers missing in the names of its files: {runs}"


def describe_runs(numbers: list[int], step: int = 1) -> str:
    """Return numbers in order as text, runs of them as `3…7`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and runs[-1][1] == n - step:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    spans = [f"{a}" if a == b else f"{a}…{b}" for a, b in runs]
    return ", ".join(spans[:12]) + (" …" if len(spans) > 12 else "")


def _one_kind(files: list[Path], name: str) -> None:
    """Refuse a mixture, for which files are the sections would be a guess."""
    kinds: dict[str, list[Path]] = {}
    for path in files:
        known = next((f.name for f in FORMATS if path.suffix.lower() in f.suffixes), "")
        kind = path.suffix.lower() if known == "picture" else known
        kinds.setdefault(kind.replace("jpeg", "jpg"), []).append(path)
    if len(kinds) > 1:
        found = " and ".join(f"{len(p)} such as {p[0].name}" for p in kinds.values())
        msg = f"has several kinds of files ({found}); say which, as in {name}/*.EXT"
        raise UnreadableError(msg)


def _compare(files: list[Path]) -> tuple[Path, Volume]:
    """Return the first section that can be read; compare it with the others."""
    readable: list[tuple[Path, Volume]] = []
    trouble: list[OSError] = []
    looked_at = files[:: -(-len(files) // LOOKED_AT)]
    for path in dict.fromkeys([*looked_at, *files]):
        if readable and path not in looked_at:
            break
        try:
            readable.append((path, _section(path)))
        except OSError as e:
            trouble.append(e)
    if not readable:
        raise trouble[0]
    for path, volume in readable:
        _check_alike(*readable[0], path, volume)
    return readable[0]


def _section(path: Path) -> Volume:
    """Return the one section in a file, without its axes of length 1."""
    with clear_errors(path.name):
        found = recognise(path).contents(path)
    volume = found.volumes[found.default or 0]
    lead = len(volume.axes.partition("Y")[0])
    if found.default is None or max(volume.shape[:lead], default=1) > 1:
        msg = f"{path.name} is more than one section ({volume.summary}); open it alone"
        raise UnreadableError(msg)

    def read(index: Index) -> NDArray[Any]:
        return volume.read((0,) * lead)

    axes, shape = volume.axes[lead:], volume.shape[lead:]
    return replace(volume, axes=axes, shape=shape, read=read)


def _check_alike(first: Path, like: Volume, path: Path, volume: Volume) -> None:
    for what, a, b in (
        ("size", like.shape[:2], volume.shape[:2]),
        ("type", like.dtype, volume.dtype),
        ("samples per pixel", like.shape[2:], volume.shape[2:]),
    ):
        if a != b:
            msg = (
                f"sections of one stack must be alike in {what}: "
                f"{first.name} has {a}, {path.name} has {b}"
            )
            raise UnreadableError(msg)
