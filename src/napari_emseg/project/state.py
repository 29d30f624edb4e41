"""What `project.json` and `review.json` hold, and the lines of `edits.jsonl`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from napari_emseg.core.regions import Region
from napari_emseg.core.settings import Invert
from napari_emseg.core.stack import VoxelSize
from napari_emseg.edit.area import Area, union
from napari_emseg.edit.edits import Edit

Corners = tuple[int, int, int, int]
"""`(y0, y1, x0, x1)` of an area."""

FORMAT = 1
"""Of the folder; a program refuses a later one than it knows."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Fingerprint(_Part):
    """By what a stack is known again.

    `size` in bytes and `modified` (ns) tell at once that nothing has changed; sections
    (number: SHA-256 of the values) decide where they differ.
    """

    size: int | None = None
    modified: int | None = None
    dtype: str
    sections: dict[int, str]

    @property
    def words(self) -> str:
        """For a person who looks for the stack."""
        sums = (f"{z} is {digest[:8]}…" for z, digest in self.sections.items())
        return f"{self.dtype}, SHA-256 of section {', of '.join(sums)}"


class SourceReference(_Part):
    """Where the stack is that was worked on; it isn't copied.

    `path` is relative to the project's folder where that is possible, with slashes;
    `absolute` is where it was. Both are None for a stack that is no file.
    """

    name: str
    path: str | None
    absolute: str | None
    choice: dict[str, int | str] = Field(default_factory=dict)
    shape: tuple[int, int, int]
    voxel_size_nm: VoxelSize | None = None
    fingerprint: Fingerprint


class ProjectInfo(_Part):
    """`project.json`."""

    format: int = FORMAT
    id: str = Field(default_factory=lambda: uuid4().hex)
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    version: str = ""
    """Of the program that wrote it."""
    source: SourceReference
    invert: Invert = "auto"
    weights: str | None = None
    """Name of weights, or of a file in `weights/`."""
    weights_sha256: str | None = None
    classes: tuple[str, ...] = ("membrane", "inside")
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Of each stage, by its name: `predict`, `cells` …"""
    segmented: dict[int, tuple[Corners, ...]] = Field(default_factory=dict)
    """Areas of sections in which cells were found."""
    linked: tuple[int, ...] = ()
    """Sections through which an id is one cell."""


class Renaming(_Part):
    """Cell `source` is `target` in sections `first` … `stop` - 1."""

    source: int
    target: int
    first: int
    stop: int


class ReviewState(_Part):
    """`review.json`.

    `renamed` are changes of ids through the stack, in order; chunks of section z have
    the first `settled[z]` of them in, none if it isn't named.
    """

    saves: int = 0
    sections: dict[int, Literal["reviewed", "excluded"]] = Field(default_factory=dict)
    """What isn't named is to do."""
    regions: tuple[tuple[int, int, int, int, int], ...] = ()
    """Reviewed parts of sections, `(z, top, left, bottom, right)`, in that order."""
    locked: tuple[int, ...] = ()
    last_id: int = 0
    renamed: tuple[Renaming, ...] = ()
    settled: dict[int, int] = Field(default_factory=dict)

    def named(self, status: Literal["reviewed", "excluded"]) -> frozenset[int]:
        """Return the sections of a status."""
        return frozenset(z for z, s in self.sections.items() if s == status)

    @property
    def reviewed_regions(self) -> tuple[Region, ...]:
        """Return `regions` as such."""
        return tuple(Region(*region) for region in self.regions)


class EditLine(_Part):
    """A line of `edits.jsonl`: what was done, where, by whom and when (UTC).

    `areas` are `(y0, y1, x0, x1)` by section, `pixels` how many changed of each array;
    `undone` says that an earlier edit was taken back.
    """

    time: datetime
    author: str = ""
    what: str
    words: str = ""
    undone: bool = False
    areas: dict[int, Corners] = Field(default_factory=dict)
    pixels: dict[str, int] = Field(default_factory=dict)
    renamed: tuple[Renaming, ...] = ()
    locked: tuple[int, ...] = ()
    unlocked: tuple[int, ...] = ()
    reviewed: tuple[tuple[int, int, int, int, int], ...] = ()
    unreviewed: tuple[tuple[int, int, int, int, int], ...] = ()

    @classmethod
    def of(cls, edit: Edit, author: str, *, undone: bool = False) -> EditLine:
        """Return the line of an edit; one that is undone is undone now."""
        areas: dict[int, Area] = {}
        pixels: dict[str, int] = {}
        for change in edit.changes:
            known = areas.get(change.z, change.area)
            areas[change.z] = union(known, change.area)
            pixels[change.name] = pixels.get(change.name, 0) + change.count
        return cls(
            time=datetime.now(UTC) if undone else edit.time,
            author=edit.author or author,
            what=edit.tool,
            words=edit.words,
            undone=undone,
            areas={z: corners(area) for z, area in areas.items()},
            pixels=pixels,
            renamed=renamings(edit),
            locked=tuple(sorted(edit.lock)),
            unlocked=tuple(sorted(edit.unlock)),
            reviewed=tuple(region.as_tuple() for region in edit.review),
            unreviewed=tuple(region.as_tuple() for region in edit.unreview),
        )


def renamings(edit: Edit) -> tuple[Renaming, ...]:
    """Return the changes of ids of an edit."""
    return tuple(
        Renaming(source=i.source, target=i.target, first=i.first, stop=i.stop)
        for i in edit.ids
    )


def corners(area: Area) -> Corners:
    """Return `(y0, y1, x0, x1)` of rows and columns."""
    rows, columns = area
    return rows.start, rows.stop, columns.start, columns.stop
