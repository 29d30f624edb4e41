"""What every task of an input needs to know; small, and sent along with each task."""

from __future__ import annotations  # zarr 3.1.2 has no Array[Any]

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr

from napari_emseg.batch.inputs import Input
from napari_emseg.batch.settings import BatchSettings
from napari_emseg.core.intensity import GreyRange
from napari_emseg.core.padding import HUGE_PIXELS
from napari_emseg.core.records import ClassifierRef
from napari_emseg.core.regions import Area, Region
from napari_emseg.core.settings import CellSettings, Through
from napari_emseg.core.stack import NOWHERE, Origin, Stack, VoxelSize
from napari_emseg.io.fingerprint import SourceState
from napari_emseg.io.sections import SectionArray
from napari_emseg.io.zarr_sink import CHUNK

LUMP_PIXELS = 2048 * 2048
"""Small sections are worked on together, so that a task takes a second at least."""

DEEPEST = 64
"""Sections in one go, however small."""


@dataclass(frozen=True, slots=True)
class Part:
    """Sections `first` … `stop` - 1 of the result; or a block of one of them.

    `corners` are `(top, left, bottom, right)` of a block; None for whole sections.
    """

    first: int
    stop: int
    corners: tuple[int, int, int, int] | None = None

    @property
    def area(self) -> Area | None:
        """Rows and columns of a block."""
        if self.corners is None:
            return None
        top, left, bottom, right = self.corners
        return slice(top, bottom), slice(left, right)

    @property
    def places(self) -> range:
        """Its sections of the result."""
        return range(self.first, self.stop)

    @property
    def words(self) -> str:
        """For people."""
        if self.corners is not None:
            return Region(self.first, *self.corners).words
        last = self.stop - 1
        return f"z {self.first}" if last == self.first else f"z {self.first}…{last}"


def fits(shape: tuple[int, int], settings: BatchSettings) -> bool:
    """Tell if sections of `(y, x)` px are worked on whole."""
    return shape[0] * shape[1] <= settings.whole**2


def section_runs(n: int, shape: tuple[int, int]) -> list[Part]:
    """Cut `n` sections of `(y, x)` px into runs."""
    deep = max(1, min(DEEPEST, LUMP_PIXELS // (shape[0] * shape[1])))
    return [Part(z, min(z + deep, n)) for z in range(0, n, deep)]


def blocks(shape: tuple[int, int], side: int) -> list[Area]:
    """Cut a section into blocks, row by row."""
    return [
        (slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1])))
        for y in range(0, shape[0], side)
        for x in range(0, shape[1], side)
    ]


def parts(n: int, shape: tuple[int, int], settings: BatchSettings) -> list[Part]:
    """Cut a stack of `n` sections of `(y, x)` px."""
    if fits(shape, settings):
        return section_runs(n, shape)
    return [
        Part(z, z + 1, (y.start, x.start, y.stop, x.stop))
        for z in range(n)
        for y, x in blocks(shape, settings.block)
    ]


QUANTISED = "network.int8"
PROFILES, PLACES, EMPTY = "profiles.zarr", "places.zarr", "empty.zarr"
MEMBRANES, CELLS, TABLES = "membranes.zarr", "cells.zarr", "tables"


def affinity_array(name: str) -> str:
    """Return the scratch array of a class of affinities, such as `affinity z1`."""
    return f"{name.replace(' ', '-')}.zarr"


@dataclass(frozen=True, slots=True)
class FileRef:
    """A file that every worker loads for itself, and a checksum of what is in it."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Context:
    """An input, how it is worked on, and where its unfinished results are.

    Parameters
    ----------
    folder
        Of unfinished results, where all workers reach it.
    sections
        Of the source, in the order of the results.
    excluded
        Places among them that are left empty.
    beside
        Further sections of the source that a network sees beside those.
    invert, whole_range
        What was found out about grey values once, for all parts.
    seen
        Some of the input's files when the batch began.
    quantised
        Checksum of the network for int8, which was calibrated on this input.
    chosen
        The precision was chosen by another input, and is checked on this one.
    through
        How its cells are found through the stack, without `auto`.
    affinities
        Classes of the network by which they are, beside membranes.
    edges, edges_name
        Classifier of edges, if a person chose one, and what people call it.
    """

    given: Input
    folder: str
    settings: BatchSettings
    weights: FileRef | None
    sections: range
    shape: tuple[int, int]
    voxel_size_nm: VoxelSize | None
    excluded: frozenset[int] = frozenset()
    invert: bool = False
    whole_range: GreyRange | None = None
    origin_nm: Origin = NOWHERE
    seen: SourceState | None = None
    quantised: str = ""
    chosen: bool = False
    beside: tuple[int, ...] = ()
    through: Through = "sections"
    affinities: tuple[str, ...] = ()
    edges: FileRef | None = None
    edges_name: str = ""

    @property
    def cell_settings(self) -> CellSettings:
        """Settings of cells as they count for this input."""
        settled: dict[str, object] = {"through": self.through}
        if self.through != "sections":
            settled["link"] = True
        return self.settings.cell_settings.model_copy(update=settled)

    @property
    def classifier(self) -> ClassifierRef | None:
        """The classifier of edges that a person chose; None for the usual one."""
        if self.edges is None:
            return None
        return ClassifierRef(self.edges_name, self.edges.sha256)

    @property
    def looked_at(self) -> tuple[int, ...]:
        """Sections of the source, those of the results first."""
        return (*self.sections, *self.beside)

    @property
    def size(self) -> tuple[int, int, int]:
        """`(z, y, x)` of the results."""
        return (len(self.sections), *self.shape)

    @property
    def whole(self) -> bool:
        """True if sections are worked on in one piece."""
        return fits(self.shape, self.settings)

    @property
    def most(self) -> int:
        """Pixels of a section that may be read at once."""
        return HUGE_PIXELS if self.whole else 0

    def path(self, name: str) -> Path:
        """Return where an unfinished result is."""
        return Path(self.folder) / name

    def array(self, name: str) -> zarr.Array[Any]:
        """Open a scratch array, or the full resolution of a result."""
        path = self.path(name)
        # results are OME-Zarr with levels, scratch is a plain array
        if (path / "0").exists():
            path = path / "0"
        return zarr.open_array(path, mode="r+")

    def levels(self, name: str) -> list[zarr.Array[Any]]:
        """Open all scale levels of a result, the largest first."""
        folder = self.path(name)
        there = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
        return [zarr.open_array(folder / str(n), mode="r+") for n in there]

    def chunks(
        self, name: str, places: Iterable[int], area: Area | None = None, level: int = 0
    ) -> list[Path]:
        """Return the files of some sections, or of a block; what is all 0 is no file.

        Without an area all scale levels are meant.
        """
        folder = self.path(name)
        roots = [folder]
        if (folder / "0").exists():
            one = [folder / str(level)]
            roots = sorted(folder.glob("[0-9]*")) if area is None else one
        sections = [root / "c" / str(place) for root in roots for place in places]
        if area is None:
            return [p for s in sections for p in sorted(s.rglob("*")) if p.is_file()]
        blocks = ((str(y), str(x)) for y, x in _chunks(area))
        files = (section.joinpath(*b) for b in blocks for section in sections)
        return [file for file in files if file.exists()]

    def table(self, name: str) -> Path:
        """Return the file of a table."""
        return self.path(TABLES) / f"{name}.npz"


def _chunks(area: Area) -> Iterator[tuple[int, int]]:
    rows, columns = area
    for y in range(rows.start // CHUNK, -(-rows.stop // CHUNK)):
        for x in range(columns.start // CHUNK, -(-columns.stop // CHUNK)):
            yield y, x


DECODED = 2.2
"""Times a section's bytes are held while it is decoded; 2.1 were seen of a TIFF in one
strip."""


def piece_bytes(context: Context, stack: Stack) -> float:
    """Return the memory that reading a block takes beside the block; mostly 0."""
    if context.whole or not isinstance(stack.data, SectionArray):
        return 0.0
    if stack.data.chunks[1:] != stack.shape[1:]:
        return 0.0
    return DECODED * stack.data.nbytes / stack.shape[0]


def advice(context: Context, stack: Stack) -> list[str]:
    """Return what to do about such an input; nothing if it isn't one."""
    held = piece_bytes(context, stack)
    if not held:
        return []
    name = context.given.name
    return [
        f"each section of {name} is stored in one piece, so workers decode all of it "
        f"for a block ({held / 1e9:.1f} GB of memory); it is better converted before: "
        f"emseg export {context.given.path} {name}.zarr"
    ]
