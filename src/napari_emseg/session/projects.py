"""Make a project of the stack at work, and open one: everything is as it was left.

`iter_save_project` and `iter_open_project` are the long part, for a thread;
`save_project` and `open_project` do all of it.
"""

import json
from collections.abc import Generator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
from platformdirs import user_state_path

from napari_emseg.core.atomic import write_whole
from napari_emseg.core.records import ClassifierRef, Record, SectionDone, drain
from napari_emseg.core.regions import Area
from napari_emseg.core.stack import Stack
from napari_emseg.project import OpenedSource, Project
from napari_emseg.proofreading.edits import Name
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.project_sync import (
    ProjectSync,
    SaveStatus,
    corrections_in,
    restore,
)
from napari_emseg.session.results import Results
from napari_emseg.session.session import Session
from napari_emseg.session.stack_state import StackState

KEPT: tuple[Name, ...] = ("cells", "corrections")
"""What a project has of the linked pictures."""

HELD = "the project is being made; try again in a moment"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedProject:
    """A project that was read; `adopt` puts it to work."""

    stack: Stack
    editor: AnnotationEditor
    keeping: ProjectSync


def save_project(
    session: Session, path: Path | str, *, author: str = ""
) -> ProjectSync:
    """Make a project of the stack at work, and save all that is done to it from now on.

    Parameters
    ----------
    path
        The folder to make; `.emseg` is appended if it doesn't end so.

    Raises
    ------
    ValueError
        If there is no stack, or while cells are being found.
    OSError
        If there is something of that name, or it can't be written.
    """
    source = session.source
    if source is None:
        msg = "no stack is chosen, so there is nothing to make a project of"
        raise ValueError(msg)
    keeping = drain(iter_save_project(source, path, author=author))
    follow(session, source.key, keeping)
    return keeping


def open_project(
    session: Session,
    path: Path | str,
    *,
    author: str = "",
    read_only: bool = False,
    source: Path | str | None = None,
    stack: Stack | None = None,
) -> StackState:
    """Open a project and put its stack to work, as it was left.

    Parameters
    ----------
    source
        Where the stack is now, if it was moved; that is remembered.
    stack
        The stack, if it is open already.

    Raises
    ------
    StackNotFoundError
        If the stack isn't where it was; the message says how to know it.
    ValueError
        If there is a stack of another shape.
    OSError
        If the project or the stack can't be read.
    """
    work = iter_open_project(
        path, author=author, read_only=read_only, source=source, stack=stack
    )
    return adopt(session, uuid4().hex, drain(work))


def iter_save_project(
    source: StackState, path: Path | str, *, author: str = ""
) -> Generator[Record, None, ProjectSync]:
    """Make a project of a source, section by section; nobody may edit meanwhile.

    Raises
    ------
    ValueError
        While cells are being found.
    OSError
        If there is something of that name, or it can't be written.
    """
    hand, saves = source.editor, SaveStatus()
    depth, height, width = source.stack.shape
    whole = slice(0, height), slice(0, width)
    with hand.held(HELD), ExitStack() as undo:
        project = Project.create(path, source.stack, author=author, on_record=saves)
        undo.callback(project.close)
        for z in range(depth):
            hand.linked.settle(z)
            for name in KEPT:
                values = np.asarray(hand.linked.arrays[name][z])
                if values.any():
                    project.put(name, z, whole, values)
            project.flush()
            yield SectionDone(z, z + 1, depth)
        project.lock_cells(hand.linked.locked)
        project.review_regions(hand.linked.regions)
        project.constrain(hand.linked.constraints)
        keeping = ProjectSync(project, source.editor, saves)
        keeping.tell_runs()
        # whoever opens it the moment after it is made finds all of it
        project.flush()
        undo.pop_all()
    return keeping


def iter_open_project(
    path: Path | str,
    *,
    author: str = "",
    read_only: bool = False,
    source: Path | str | None = None,
    stack: Stack | None = None,
) -> Generator[Record, None, LoadedProject]:
    """Read a project, section by section; the same errors as `open_project`."""
    saves = SaveStatus()
    with ExitStack() as undo:
        project = Project(path, author=author, read_only=read_only, on_record=saves)
        undo.callback(project.close)
        found = _source_of(project, source, stack)
        editor = AnnotationEditor(Results(found.stack.shape))
        yield from _reading(project, editor)
        notes = (found.words,) if found.words else ()
        keeping = ProjectSync(project, editor, saves, notes)
        undo.pop_all()
    return LoadedProject(found.stack, editor, keeping)


def adopt(session: Session, key: str, opened: LoadedProject) -> StackState:
    """Put a project that was read to work, under the key of its stack."""
    keeping = opened.keeping
    review = keeping.project.review
    source = StackState(
        key,
        opened.stack,
        opened.editor,
        excluded=review.named("excluded"),
        reviewed=review.named("reviewed"),
    )
    session.take(source, keeping)
    keeping.notes += restore(session, opened.editor, keeping.project)
    keeping.follow(session, key)
    return source


def follow(session: Session, key: str, keeping: ProjectSync) -> None:
    """Let a project that was made keep what is done to a stack of a session.

    A project that kept it before is closed.

    Raises
    ------
    OSError
        If the one before can't be saved.
    """
    before = session.save_in(key, keeping)
    if before is not None:
        before.close()
    keeping.follow(session, key)


def _source_of(
    project: Project, source: Path | str | None, stack: Stack | None
) -> OpenedSource:
    if stack is None:
        return project.open_source(source)
    found = project.compare_source(stack)
    size = project.info.source.voxel_size_nm or stack.voxel_size_nm
    return replace(found, stack=replace(found.stack, voxel_size_nm=size))


def _reading(project: Project, hand: AnnotationEditor) -> Generator[Record, None, None]:
    """Fill results from a project's folder."""
    depth = hand.results.shape[0]
    for z in range(depth):
        for name in KEPT:
            values = project.section(name, z)
            if values.any():  # what isn't touched takes no memory
                hand.linked.arrays[name][z] = values
        yield SectionDone(z, z + 1, depth)
    hand.results.last_id = hand.linked.last_id = project.last_id
    info = project.info
    if info.cells_edges:
        by = ClassifierRef(info.cells_edges, info.cells_edges_sha256)
        hand.results.edges = by
    segmented, hand.results.lost = (
        {z: tuple(map(_area, known)) for z, known in found.items()}
        for found in (info.segmented, info.predicted)
    )
    hand.remember(segmented, info.linked, info.segmented_by)
    hand.linked.locked = project.locked
    hand.linked.regions = project.regions
    hand.linked.constraints = project.constraints
    hand.history.remember(corrections_in(project.edits()))


def _area(corners: tuple[int, int, int, int]) -> Area:
    y0, y1, x0, x1 = corners
    return slice(y0, y1), slice(x0, x1)


RECENT_KEPT = 8
"""So many are remembered."""


def memory() -> Path:
    """Return the file that remembers them."""
    return user_state_path("napari-emseg", appauthor=False) / "recent.json"


def recent_projects() -> tuple[Path, ...]:
    """Return folders of projects, the latest first; some may be gone by now."""
    try:
        listed = json.loads(memory().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or not ours
        return ()
    if not isinstance(listed, list):
        return ()
    return tuple(Path(path) for path in listed if isinstance(path, str))


def remember_project(path: Path) -> None:
    """Put a project first; where that can't be written, nothing is remembered."""
    path = path.absolute()
    others = [known for known in recent_projects() if known != path]
    text = json.dumps([str(known) for known in (path, *others)][:RECENT_KEPT], indent=1)
    file = memory()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
