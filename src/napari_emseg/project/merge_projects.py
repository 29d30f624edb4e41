"""Two projects on one stack, section by section, and where they disagree."""

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.records import Record, SectionDone
from napari_emseg.core.regions import Area, Region
from napari_emseg.project.folder import create_folder
from napari_emseg.project.project import Project
from napari_emseg.project.source import seen_from
from napari_emseg.project.state import EditLine, ProjectInfo
from napari_emseg.proofreading.edits import MEMBRANE, NO_OPINION

Prefer = Literal["none", "first", "second", "latest"]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Where two people disagree.

    Parameters
    ----------
    kind
        `corrections`: one says membrane where the other says inside; `cells`: both
        changed the cells of a section; `review`: one has reviewed what the other has
        excluded.
    area
        Rows and columns; None for a whole section.
    pixels
        So many differ.
    words
        What is there, and what the result has.
    """

    kind: Literal["corrections", "cells", "review"]
    z: int
    area: Area | None
    pixels: int
    words: str


class ProjectMerge:
    """Two projects, section by section, and what they don't agree on."""

    def __init__(self, first: Project, second: Project, prefer: Prefer) -> None:
        self.first = first
        self.second = second
        self.prefer = prefer
        self.conflicts: list[Conflict] = []
        self.alone = [0, 0]
        self._edits = first.edits(), second.edits()
        # Both may be copies of one project: edits that both have are their past, and
        # only what each did since tells who has worked where.
        common = set(_keys(self._edits[0])) & set(_keys(self._edits[1]))
        self._own = tuple(
            tuple(
                e
                for e, key in zip(edits, _keys(edits), strict=True)
                if key not in common
            )
            for edits in self._edits
        )
        self.taken = tuple(
            z for z in range(first.info.source.shape[0]) if self._theirs(z)
        )
        # ids of the second's cells → those in the result, for all sections alike
        self._fresh: dict[int, int] = {}

    def corrections(self, z: int) -> NDArray[np.uint8]:
        """Return the opinions of both `(y, x)`; note where they differ."""
        a, b = (np.asarray(p.section("corrections", z)) for p in self._both)
        one, other = a != NO_OPINION, b != NO_OPINION
        self.alone[0] += int((one & ~other).sum())
        self.alone[1] += int((other & ~one).sum())
        united = np.where(one, a, b)
        differ = one & other & (a != b)
        if differ.any():
            # area by area, since each may have another author and time
            found, _ = ndi.label(differ, np.ones((3, 3)))
            for number, area in enumerate(ndi.find_objects(found), 1):
                here = found[area] == number
                choice = self._choice(z, area)
                values = {"first": a[area], "second": b[area]}.get(choice)
                part = united[area]
                part[here] = NO_OPINION if values is None else values[here]
                self._disagree(z, area, int(here.sum()), choice)
        return united

    def cells(self, z: int, shared: frozenset[int]) -> NDArray[np.uint32]:
        """Return the cells of the one who changed them `(y, x)`."""
        cells: NDArray[np.uint32] = np.array(self.first.section("cells", z))
        theirs = np.asarray(self.second.section("cells", z))
        if z in self.taken:
            return self._renumbered(theirs, shared)
        if _touches(self._own[0], z) and _touches(self._own[1], z):
            differ = int((cells != theirs).sum())
            if differ:
                words = "both changed the cells of this section; the first's are kept"
                self.conflicts.append(Conflict("cells", z, None, differ, words))
        return cells

    def shared_ids(self) -> frozenset[int]:
        """Return the ids of cells that have a pixel in common."""
        found: set[int] = set()
        for z in range(self.first.info.source.shape[0]):
            a, b = (np.asarray(p.section("cells", z)) for p in self._both)
            # the same id in the same place is the same cell; elsewhere two people may
            # have given one number to different cells
            found.update(np.unique(a[(a == b) & (a > 0)]).tolist())
        return frozenset(found)

    def locked(self, shared: frozenset[int]) -> frozenset[int]:
        """Return the cells that either has locked and that are in the result."""
        theirs = {
            self._fresh.get(i, i if i in shared else 0) for i in self.second.locked
        }
        return self.first.locked | frozenset(theirs - {0})

    def mark(self, project: Project) -> None:
        """Mark sections as either has."""
        a, b = (project.review.sections for project in self._both)
        for z in sorted({*a, *b}):
            found = {status for status in (a.get(z), b.get(z)) if status is not None}
            if len(found) > 1:
                words = "reviewed by one, excluded by the other; it is to do again"
                self.conflicts.append(Conflict("review", z, None, 0, words))
            else:
                project.mark([z], found.pop())

    @property
    def regions(self) -> tuple[Region, ...]:
        """Regions that either has reviewed."""
        return tuple(dict.fromkeys((*self.first.regions, *self.second.regions)))

    def lines(self) -> tuple[EditLine, ...]:
        """Return the edits of both, oldest first; a past in common once."""
        lines = (*self._edits[0], *self._own[1])
        return tuple(sorted(lines, key=lambda line: line.time))

    @property
    def _both(self) -> tuple[Project, Project]:
        return self.first, self.second

    def _theirs(self, z: int) -> bool:
        """Tell if only the second has worked on the cells of a section."""
        worked = [
            _touches(own, z) or z in project.review.named("reviewed")
            for own, project in zip(self._own, self._both, strict=True)
        ]
        return worked[1] and not worked[0]

    def _renumbered(
        self, cells: NDArray[np.uint32], shared: frozenset[int]
    ) -> NDArray[np.uint32]:
        ids, index = np.unique(cells, return_inverse=True)
        # above both, so that an id that only one of them knows isn't given again
        taken = max(self.first.last_id, self.second.last_id)
        for i in ids.tolist():
            if i and i not in shared and i not in self._fresh:
                self._fresh[i] = taken + len(self._fresh) + 1
        given = np.array([self._fresh.get(i, i) for i in ids.tolist()], np.uint32)
        out: NDArray[np.uint32] = given[index].reshape(cells.shape)
        return out

    def _choice(self, z: int, area: Area) -> Prefer:
        if self.prefer != "latest":
            return self.prefer
        times = [_latest(edits, z, area) for edits in self._edits]
        if times[0] is None or times[1] is None or times[0] == times[1]:
            return "none"
        return "first" if times[0] > times[1] else "second"

    def _disagree(self, z: int, area: Area, pixels: int, choice: Prefer) -> None:
        names = [_author(edits, z, area) for edits in self._edits]
        result = {"none": "nobody's", "first": names[0], "second": names[1]}[choice]
        words = f"{names[0]} and {names[1]} differ; in the result: {result}"
        self.conflicts.append(Conflict("corrections", z, area, pixels, words))


def _keys(edits: tuple[EditLine, ...]) -> tuple[tuple[Any, ...], ...]:
    return tuple((e.time, e.author, e.what, e.undone) for e in edits)


def _touches(edits: tuple[EditLine, ...], z: int) -> bool:
    """Tell if edits change the cells of a section."""
    return any(
        (z in e.areas and "cells" in e.pixels)
        or any(r.first <= z < r.stop for r in e.renamed)
        for e in edits
    )


def _there(edits: tuple[EditLine, ...], z: int, area: Area) -> list[EditLine]:
    rows, columns = area
    found = []
    for edit in edits:
        if z in edit.areas and "corrections" in edit.pixels:
            y0, y1, x0, x1 = edit.areas[z]
            meet = y0 < rows.stop and rows.start < y1
            if meet and x0 < columns.stop and columns.start < x1:
                found.append(edit)
    return found


def _latest(edits: tuple[EditLine, ...], z: int, area: Area) -> datetime | None:
    return max((edit.time for edit in _there(edits, z, area)), default=None)


def _author(edits: tuple[EditLine, ...], z: int, area: Area) -> str:
    names = [edit.author for edit in _there(edits, z, area)]
    return (names[-1] if names else "") or "somebody"


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of a merger."""

    path: Path
    conflicts: tuple[Conflict, ...]
    corrections: tuple[int, int]
    """Pixels with an opinion that only the first, or only the second, had."""
    cells: tuple[int, ...]
    """Sections whose cells are the second's."""


def iter_merge(
    first: Project, second: Project, out: Path, *, prefer: Prefer = "none"
) -> Generator[Record, None, Merged]:
    """Unite two projects on one stack in a new one.

    An opinion of either counts. Cells of a section are the first's, unless only the
    second has changed or reviewed them. A cell of the second keeps its id if it shares
    a pixel with the first's cell of that id anywhere, else it gets a new one.

    Parameters
    ----------
    prefer
        Whose opinion counts where both have one and they differ: nobody's, the first's,
        the second's, or that of the later edit there.

    Raises
    ------
    ValueError
        If they are on different stacks.
    OSError
        If one can't be read, or the result not written.
    """
    check_same_stack(first, second)
    folder = out
    source = seen_from(first.info.source, folder)
    info = first.info.model_dump(exclude={"id", "created", "source"})
    create_folder(folder, ProjectInfo(source=source, **info))
    return _merge(ProjectMerge(first, second, prefer), folder)


def check_same_stack(first: Project, second: Project) -> None:
    """Refuse two projects that are not on one stack.

    Raises
    ------
    ValueError
        If shapes or contents differ.
    """
    a, b = first.info.source, second.info.source
    same = a.shape == b.shape and a.fingerprint.sections == b.fingerprint.sections
    if not same:
        shapes = [" × ".join(map(str, source.shape)) for source in (a, b)]
        msg = (
            f"the projects are on different stacks: {a.name} ({shapes[0]}) and "
            f"{b.name} ({shapes[1]})"
        )
        raise ValueError(msg)


def _merge(pair: ProjectMerge, folder: Path) -> Generator[Record, None, Merged]:
    depth = pair.first.info.source.shape[0]
    shared = pair.shared_ids()
    with Project(folder) as project:
        for z in range(depth):
            corrections = pair.corrections(z)
            cells = pair.cells(z, shared)
            # as runs and tools have it: no cell where somebody drew membrane
            cells[corrections == MEMBRANE] = 0
            _put(project, "corrections", z, corrections)
            _put(project, "cells", z, cells)
            # section by section, so that changes don't gather in memory
            project.flush()
            yield SectionDone(z, z + 1, depth)
        pair.mark(project)
        project.lock_cells(pair.locked(shared))
        project.review_regions(pair.regions)
        both = (*pair.first.constraints, *pair.second.constraints)
        project.constrain(dict.fromkeys(both))
        project.note(pair.lines())
        for weights in (*pair.first.lineage(), *pair.second.lineage()):
            project.keep_weights(weights)
        with suppress(OSError, ValueError):  # damaged: opening the project says so
            project.tell_edges(pair.first.edges())
    return Merged(
        folder, tuple(pair.conflicts), (pair.alone[0], pair.alone[1]), pair.taken
    )


def _put(
    project: Project,
    name: Literal["cells", "corrections"],
    z: int,
    values: NDArray[Any],
) -> None:
    if values.any():
        height, width = values.shape
        project.put(name, z, (slice(0, height), slice(0, width)), values)
