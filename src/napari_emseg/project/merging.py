"""Two people's work on one stack as one project, and where they disagree."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from napari_emseg.core.records import Record, SectionDone
from napari_emseg.project.folder import create_folder
from napari_emseg.project.merge_projects import Conflict, Prefer, ProjectMerge
from napari_emseg.project.project import Project
from napari_emseg.project.source import seen_from
from napari_emseg.project.state import ProjectInfo
from napari_emseg.proofreading.edits import MEMBRANE


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of a merger."""

    path: Path
    conflicts: tuple[Conflict, ...]
    corrections: tuple[int, int]
    """Pixels with an opinion that only the first, or only the second, had."""
    cells: tuple[int, ...]
    """Sections whose cells are the second's."""


def merging(
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
    return _merging(ProjectMerge(first, second, prefer), folder)


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


def _merging(pair: ProjectMerge, folder: Path) -> Generator[Record, None, Merged]:
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
        project.note(pair.lines())
        for weights in (*pair.first.lineage(), *pair.second.lineage()):
            project.keep_weights(weights)
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
