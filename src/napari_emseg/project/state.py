"""What `project.json` and `review.json` hold, and the lines of `edits.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from napari_emseg.core.records import Record
from napari_emseg.core.regions import Area, Constraint, Region, check_inside, union
from napari_emseg.core.settings import Invert
from napari_emseg.core.stack import VoxelSize, check_voxel_size
from napari_emseg.proofreading.edits import Edit

Side = Annotated[int, Field(gt=0, le=2**24)]
"""Length of a stack along an axis, in voxels."""

Id = Annotated[int, Field(ge=0, lt=2**32)]
"""Of a cell."""

Section = Annotated[int, Field(ge=0, lt=2**24)]


def _check_path(path: str) -> str:
    if "\0" in path:
        msg = f"{path[:100]!r} is no path"
        raise ValueError(msg)
    return path


def _check_corners(corners: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    y0, y1, x0, x1 = corners
    Region(0, y0, x0, y1, x1)
    return corners


def _check_region(
    corners: tuple[int, int, int, int, int],
) -> tuple[int, int, int, int, int]:
    Region(*corners)
    return corners


FilePath = Annotated[str, AfterValidator(_check_path)]

Corners = Annotated[tuple[int, int, int, int], AfterValidator(_check_corners)]
"""`(y0, y1, x0, x1)` of an area."""

RegionCorners = Annotated[tuple[int, int, int, int, int], AfterValidator(_check_region)]
"""`(z, top, left, bottom, right)` of a region."""

Checksum = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

Option = Literal["series", "dataset", "level", "channel", "time"]

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
    path: FilePath | None
    absolute: FilePath | None
    choice: dict[Option, int | str] = Field(default_factory=dict)
    shape: tuple[Side, Side, Side]
    voxel_size_nm: Annotated[VoxelSize, AfterValidator(check_voxel_size)] | None = None
    fingerprint: Fingerprint

    @model_validator(mode="after")
    def _check_sections(self) -> Self:
        _check_sections_of(self.fingerprint.sections, self.shape[0])
        return self


class ProjectInfo(_Part):
    """`project.json`."""

    format: int = FORMAT
    id: str = Field(default_factory=lambda: uuid4().hex)
    created: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    version: str = ""
    """Of the program that wrote it."""
    source: SourceReference
    invert: Invert = "auto"
    weights: str | None = None
    """Name of weights, or of a file in `weights/`."""
    weights_sha256: str | None = None
    edges: Checksum | None = None
    """SHA-256 of the classifier of edges that was chosen; see `project.folder`."""
    cells_edges: str = ""
    """Name of the classifier by which cells were found; empty where by none."""
    cells_edges_sha256: str = ""
    """Checksum of its numbers; empty where a project of before has its name only."""
    classes: tuple[str, ...] = ("membrane", "inside")
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Of each stage, by its name: `predict`, `cells` …"""
    segmented: dict[int, tuple[Corners, ...]] = Field(default_factory=dict)
    """Areas of sections in which cells were found."""
    segmented_by: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    """Number of the run that found each of these areas; 0 where it isn't known."""
    linked: tuple[int, ...] = ()
    """Sections through which an id is one cell."""
    predicted: dict[int, tuple[Corners, ...]] = Field(default_factory=dict)
    """Areas of sections in which a network found membranes, which aren't kept."""

    @model_validator(mode="after")
    def _check_inside(self) -> Self:
        shape = self.source.shape
        told = (*self.segmented.items(), *self.predicted.items())
        _check_sections_of((*(z for z, _ in told), *self.linked), shape[0])
        areas = ((z, c) for z, known in told for c in known)
        check_inside((Region(z, c[0], c[2], c[1], c[3]) for z, c in areas), shape)
        return self


class Renaming(_Part):
    """Cell `source` is `target` in sections `first` … `stop` - 1."""

    source: Id
    target: Id
    first: Section
    stop: Section


class Said(_Part):
    """That the cells at two voxels `(z, y, x)` are one, or not."""

    first: tuple[Section, Section, Section]
    second: tuple[Section, Section, Section]
    same: bool

    @classmethod
    def of(cls, constraint: Constraint) -> Self:
        """Return what a person said, for a file."""
        c = constraint
        return cls(first=c.first, second=c.second, same=c.same)

    @property
    def constraint(self) -> Constraint:
        """What a person said."""
        return Constraint(self.first, self.second, self.same)


class ReviewState(_Part):
    """`review.json`.

    `renamed` are changes of ids through the stack, in order; chunks of section z have
    the first `settled[z]` of them in, none if it isn't named.
    """

    saves: int = 0
    sections: dict[int, Literal["reviewed", "excluded"]] = Field(default_factory=dict)
    """What isn't named is to do."""
    regions: tuple[RegionCorners, ...] = ()
    """Reviewed parts of sections, in the order in which they were."""
    locked: tuple[Id, ...] = ()
    last_id: Id = 0
    renamed: tuple[Renaming, ...] = ()
    settled: dict[int, int] = Field(default_factory=dict)
    constraints: tuple[Said, ...] = ()
    """What was said by merging and splitting through the stack, in order."""

    @model_validator(mode="after")
    def _check_settled(self) -> Self:
        for z, n in self.settled.items():
            if not 0 <= n <= len(self.renamed):
                msg = f"section {z} can't have {n} of {len(self.renamed)} changed ids"
                raise ValueError(msg)
        return self

    def check_inside(self, shape: tuple[int, int, int]) -> None:
        """Check that sections and regions are those of a stack `(z, y, x)`.

        Raises
        ------
        ValueError
            With the first that isn't.
        """
        _check_sections_of((*self.sections, *self.settled), shape[0])
        check_inside(self.reviewed_regions, shape)
        for said in self.constraints:
            if said.constraint.within((0, 0, 0), shape) is None:
                msg = f"{said.first} or {said.second} isn't in a stack of {shape}"
                raise ValueError(msg)

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

    time: AwareDatetime
    author: str = ""
    what: str
    words: str = ""
    undone: bool = False
    areas: dict[Section, Corners] = Field(default_factory=dict)
    pixels: dict[str, int] = Field(default_factory=dict)
    renamed: tuple[Renaming, ...] = ()
    locked: tuple[Id, ...] = ()
    unlocked: tuple[Id, ...] = ()
    reviewed: tuple[RegionCorners, ...] = ()
    unreviewed: tuple[RegionCorners, ...] = ()

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


def _check_sections_of(sections: Iterable[int], depth: int) -> None:
    """Raise ValueError if one of these sections isn't in a stack."""
    for z in sections:
        if not 0 <= z < depth:
            msg = f"there is no section {z}; the stack has {depth}"
            raise ValueError(msg)


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


@dataclass(frozen=True, slots=True)
class Saved(Record):
    """Changes are on the disk: how many, and the seconds that writing took."""

    changes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SaveFailed(Record):
    """Changes could not be saved; they stay in memory and are tried again.

    Parameters
    ----------
    message
        Why, in words.
    waiting
        How many changes are not on the disk.
    again_in
        Seconds until the next try.
    """

    message: str
    waiting: int
    again_in: float
