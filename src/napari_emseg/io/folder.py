"""A folder or glob of files, one section each, in the order of their numbers."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from napari_emseg.io.errors import UnreadableError, clear_errors
from napari_emseg.io.reading import FORMATS, recognise
from napari_emseg.io.volumes import Contents, Index, Volume

LOOKED_AT = 256
"""Headers that are compared at once; with more files, others show when they're read."""


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


def contents(path: Path) -> Contents:
    """Return the sections of a folder as one volume."""
    known = {s for f in FORMATS if f.module != "omezarr" for s in f.suffixes}
    files = [
        p
        for p in path.iterdir()
        if p.suffix.lower() in known and not p.name.startswith(".") and p.is_file()
    ]
    if not files:
        msg = f"has no sections in it ({', '.join(sorted(known))})"
        raise UnreadableError(msg)
    return contents_of_files(files, path.name)


def contents_of_files(files: list[Path], name: str) -> Contents:
    """Return files of one section each as one volume, in natural order.

    A single file is opened as itself. Files that can't be read only matter when their
    section is read, unless there are no others.

    Raises
    ------
    UnreadableError
        If there are several kinds of files, or sections of unlike size or type.
    """
    files = sorted(files, key=natural)
    _one_kind(files, name)
    if len(files) == 1:
        return recognise(files[0]).contents(files[0])
    first, like = _compare(files)

    def read(index: Index) -> NDArray[Any]:
        path = files[index[0]]
        volume = _section(path)
        _check_alike(first, like, path, volume)
        with clear_errors(path.name):
            return volume.read(())

    shape = (len(files), *like.shape)
    volume = Volume("Z" + like.axes, shape, like.dtype, read, like.voxel_size_nm)
    return Contents((volume,), notes={"files": [p.name for p in files]})


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
        msg = f"is more than one section ({volume.summary}); open it alone"
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
