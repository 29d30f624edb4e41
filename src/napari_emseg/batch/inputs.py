"""Words that a person gives → inputs: files, folders, globs, URLs, projects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Area
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.core.stack import Stack, VoxelSize
from napari_emseg.io import AmbiguousFileError, open_stack
from napari_emseg.io.fingerprint import fingerprint
from napari_emseg.io.folder import drop_parts, find_files, natural
from napari_emseg.io.formats import SUFFIXES
from napari_emseg.project import Project
from napari_emseg.project.folder import PROJECT_SUFFIX, is_project
from napari_emseg.project.source import open_source
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE
from napari_emseg.proofreading.rerun import (
    SmallestPieces,
    burnt_in_probabilities,
    keep_locked,
    parted,
)


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
            if path.name.lower().endswith((*SUFFIXES, PROJECT_SUFFIX))
            and not path.name.startswith(".")
        ]
        return [str(path) for path in drop_parts(inside)] or [word]
    return [word]


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


@dataclass(frozen=True, slots=True, eq=False)
class ProjectOverlay:
    """What a person did in a project, to be read only.

    Parameters
    ----------
    first_id
        Cells that are found get ids from here, above those of locked ones.
    """

    project: Project
    excluded: frozenset[int]
    locked: frozenset[int]
    first_id: int

    @classmethod
    def of(cls, folder: Path) -> ProjectOverlay:
        """Open the hand work of a project.

        Raises
        ------
        OSError
            If it is no project, or damaged.
        """
        project = Project(folder, read_only=True)
        excluded = project.review.named("excluded")
        locked = project.locked
        first = project.last_id + 1 if locked else 1
        return cls(project, excluded, locked, first)

    @property
    def state(self) -> str:
        """What changes with every save."""
        review = self.project.review
        return f"{self.project.info.id}-{review.saves}"

    def corrections(self, z: int, area: Area | None = None) -> NDArray[np.uint8]:
        """Return corrections `(y, x)` of a section."""
        values: NDArray[np.uint8] = self.project.section("corrections", z)
        return values if area is None else values[area]

    def burn(
        self, membrane: NDArray[Any], z: int, area: Area | None = None
    ) -> NDArray[Any]:
        """Return probabilities with the corrections in them: hand beats network.

        Those of uint8 go up to 255.
        """
        return burnt_in_probabilities(membrane, self.corrections(z, area))

    def burn_affinity(
        self, affinity: NDArray[np.float32], z: int, name: str
    ) -> NDArray[np.float32]:
        """Return an affinity `(y, x)` with the corrections in it.

        What is inside says nothing of the section before.
        """
        known = self.corrections(z)
        out = np.where(known == MEMBRANE, np.float32(0), affinity)
        if name.startswith("affinity z"):
            return out
        return np.where(known >= INSIDE, np.float32(1), out).astype(np.float32)

    def part(
        self,
        cells: NDArray[np.uint32],
        z: int,
        minimum_size: int,
        next_id: int | None = None,
    ) -> NDArray[np.uint32]:
        """Return cells `(y, x)` without membrane that was drawn by hand.

        What that cuts off is a cell as it would be one in a window; its id is
        `next_id` or larger, above those of the section if that isn't given.
        """
        known = self.corrections(z)
        if not (known == MEMBRANE).any():
            return cells
        old: NDArray[np.uint32] = self.project.section("cells", z)
        smallest = smallest_pieces(minimum_size)
        first = int(cells.max()) + 1 if next_id is None else next_id
        found, _ = parted(cells, old, known, first, smallest)
        return found

    def keep_locked(self, cells: NDArray[np.uint32], z: int) -> NDArray[np.uint32]:
        """Return cells `(y, x)` of a section with locked ones in their place."""
        if not self.locked:
            return cells
        old: NDArray[np.uint32] = self.project.section("cells", z)
        return keep_locked(old, cells, self.locked, shift=0)


def smallest_pieces(minimum_size: int) -> SmallestPieces:
    """Return which pieces that drawn membrane cuts off are cells in a batch."""
    return SmallestPieces(CorrectSettings().sliver, minimum_size)


@dataclass(frozen=True, slots=True, eq=False)
class OpenInput:
    """An input: its stack, the hand work on it, and by what it is known again."""

    stack: Stack
    hand: ProjectOverlay | None
    fingerprint: str

    @property
    def hand_state(self) -> str:
        """What changes with every save of the hand work; empty without any."""
        return "" if self.hand is None else self.hand.state


def open_input(given: Input) -> OpenInput:
    """Open an input.

    Raises
    ------
    OSError, ValueError
        If it can't be read, or a project's stack isn't there or has changed.
    """
    if not given.is_project:
        stack = open_given(given)
        return OpenInput(stack, None, fingerprint(given.path, stack))
    folder = Path(given.path)
    hand = ProjectOverlay.of(folder)
    source = open_source(hand.project.info.source, folder)
    if source.state == "changed":
        raise ValueError(source.words)
    stack = replace(source.stack, name=given.name)
    digits = fingerprint(str(stack.source), stack)
    return OpenInput(stack, hand, f"{digits}-{hand.state}")
