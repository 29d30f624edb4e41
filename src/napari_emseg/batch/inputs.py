"""Words that a person gives → inputs: files, folders, globs, URLs, projects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_emseg.core.stack import Stack, VoxelSize
from napari_emseg.io import AmbiguousFileError, open_stack
from napari_emseg.io.folder import drop_parts, find_files, natural
from napari_emseg.io.formats import SUFFIXES

PROJECT = ".emseg"


@dataclass(frozen=True, slots=True)
class Input:
    """One stack that results are made of.

    Parameters
    ----------
    name
        Of its results; no two inputs of a batch share one.
    path
        File, folder of sections, OME-Zarr, URL, or project.
    first, stop
        Sections from the first up to, and without, the last; None for all.
    voxel_size_nm
        `(z, y, x)`; wins over the file's own.
    choice
        Options of `open_stack` and their values.
    """

    name: str
    path: str
    first: int | None = None
    stop: int | None = None
    voxel_size_nm: VoxelSize | None = None
    choice: tuple[tuple[str, Any], ...] = ()

    @property
    def is_project(self) -> bool:
        """True for a project folder, whose hand work counts."""
        return is_project(self.path)

    def sections(self, stack: Stack) -> range:
        """Return the sections that are asked for.

        Raises
        ------
        ValueError
            If they are not there.
        """
        n = stack.shape[0]
        first = 0 if self.first is None else self.first
        stop = n if self.stop is None else self.stop
        if not 0 <= first < stop <= n:
            msg = f"{self.name} has sections 0:{n}; {first}:{stop} is not among them"
            raise ValueError(msg)
        return range(first, stop)


def find_inputs(
    words: Iterable[str],
    *,
    first: int | None = None,
    stop: int | None = None,
    voxel_size_nm: VoxelSize | None = None,
    choice: Sequence[tuple[str, Any]] = (),
) -> tuple[Input, ...]:
    """Return the inputs that words mean, each once.

    A file, an OME-Zarr, a URL and a project are an input each, and so is every file
    that a glob matches. A folder of pictures is one stack, each file a section. An
    OME-TIFF that is spread over several files is one input.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or nothing matches a glob.
    ValueError
        If there is no word at all.
    """
    paths = [path for word in words for path in _paths(word)]
    if not paths:
        msg = "a batch needs one input at least"
        raise ValueError(msg)
    found: list[Input] = []
    taken: set[str] = set()
    files = [Path(path) for path in paths if "://" not in path]
    parts = set(map(str, files)) - set(map(str, drop_parts(files)))
    for path in dict.fromkeys(path for path in paths if path not in parts):
        name = free_name(_stem(path), taken)
        taken.add(name)
        found.append(Input(name, path, first, stop, voxel_size_nm, tuple(choice)))
    return tuple(found)


def stacks_in(word: str) -> list[str]:
    """Return what is meant by a folder: itself if it is a stack, else stacks in it.

    Other words are returned as they are.
    """
    folder = Path(word).expanduser()
    if "://" in word or not folder.is_dir() or is_project(word):
        return [word]
    try:
        open_stack(folder)
    except AmbiguousFileError:
        return [word]
    except (OSError, ValueError):
        inside = [
            path
            for path in sorted(folder.iterdir(), key=natural)
            if path.name.lower().endswith((*SUFFIXES, PROJECT))
            and not path.name.startswith(".")
        ]
        return [str(path) for path in drop_parts(inside)] or [word]
    return [word]


def is_project(path: str) -> bool:
    """Tell a project folder by its name."""
    return path.rstrip("/").endswith(PROJECT) and Path(path).is_dir()


def open_given(given: Input) -> Stack:
    """Open an input that is no project.

    Raises
    ------
    OSError, ValueError
        As `open_stack`.
    """
    stack = open_stack(
        given.path, voxel_size_nm=given.voxel_size_nm, **dict(given.choice)
    )
    return replace(stack, name=given.name)


def _paths(word: str) -> list[str]:
    if "://" in word:
        return [word]
    place = Path(word).expanduser()
    if place.exists():
        return [str(place)]
    if any(c in word for c in "*?["):
        found = sorted(find_files(word), key=natural)
        if found:
            return [str(p) for p in found]
        msg = f"no file matches {word}"
        raise FileNotFoundError(msg)
    msg = f"no such file or folder: {word}"
    raise FileNotFoundError(msg)


def _stem(path: str) -> str:
    if "://" not in path and Path(path).name in ("", ".", ".."):
        path = str(Path(path).resolve())
    name = path.rstrip("/").replace("\\", "/").rpartition("/")[2]
    for ending in (".ome.tiff", ".ome.tif", ".ome.zarr", ".nii.gz"):
        if name.lower().endswith(ending):
            return _plain(name[: -len(ending)])
    return _plain(name.rpartition(".")[0] if "." in name.strip(".") else name)


def _plain(stem: str) -> str:
    """Return a name that may be that of a folder on every system."""
    return re.sub(r"[\x00-\x1f\x7f:]+", "_", stem).rstrip(". ") or "input"


def free_name(stem: str, taken: set[str]) -> str:
    """Return a name like the stem that isn't taken."""
    name, nth = stem, 1
    while name in taken:
        nth += 1
        name = f"{stem}-{nth}"
    return name
