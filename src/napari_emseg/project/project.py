"""A project `NAME.emseg/`: all work on a stack, read, and saved while it goes on."""

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from napari_emseg._installed import __version__
from napari_emseg.core.lock import Hold
from napari_emseg.core.paths import path_inside
from napari_emseg.core.records import Note
from napari_emseg.core.regions import Area, Constraint, Region
from napari_emseg.core.settings import Invert
from napari_emseg.core.sinks import Closing
from napari_emseg.core.stack import Stack, VoxelSize
from napari_emseg.models.weights import Weights, bundled_folders
from napari_emseg.project.autosave import SECONDS, Autosave, Listener, Step
from napari_emseg.project.folder import (
    FOLDER,
    WRITTEN,
    create_folder,
    keep_edges,
    keep_weights,
    kept_edges,
    named,
    read_edits,
    shelved,
)
from napari_emseg.project.source import (
    OpenedSource,
    compare_source,
    open_source,
    refer_to,
)
from napari_emseg.project.state import Corners, EditLine, ProjectInfo, ReviewState
from napari_emseg.project.store import ProjectStore, pieces_of
from napari_emseg.proofreading.edits import Edit, Name
from napari_emseg.segmentation.edge_classifier import EdgeClassifier


class ProjectReader:
    """A project's folder, to read."""

    def __init__(self, path: Path, disk: ProjectStore) -> None:
        self.path = path
        self._disk = disk
        self._info = disk.info
        self._review = disk.review

    @property
    def info(self) -> ProjectInfo:
        """What the project is about."""
        return self._info

    @property
    def review(self) -> ReviewState:
        """Sections that are reviewed or excluded."""
        return self._review

    @property
    def locked(self) -> frozenset[int]:
        """Cells that were locked when the project was opened."""
        return frozenset(self._review.locked)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Reviewed parts of sections when the project was opened, in that order."""
        return self._review.reviewed_regions

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """Merges and splits through the stack when the project was opened."""
        return tuple(said.constraint for said in self._review.constraints)

    @property
    def last_id(self) -> int:
        """Largest id of a cell when the project was opened."""
        return self._review.last_id

    def section(self, name: Name, z: int) -> NDArray[Any]:
        """Return `cells` or `corrections` of a section `(y, x)`, as they are saved."""
        values: NDArray[Any] = self._disk.section(name, z)
        return values

    def edits(self) -> tuple[EditLine, ...]:
        """Return every edit that is saved, oldest first."""
        return read_edits(self.path)

    def compare_source(self, stack: Stack) -> OpenedSource:
        """Tell if a stack that is open already is the project's.

        Raises
        ------
        ValueError
            If its shape is another one.
        """
        return compare_source(self._info.source, stack)

    def lineage(self) -> tuple[Weights, ...]:
        """Return the project's weights, parents before their children."""
        return shelved(self.path)

    def edges(self) -> EdgeClassifier | None:
        """Return the classifier of edges that was chosen; None for the usual one.

        Raises
        ------
        OSError, ValueError
            If it can't be read, or is damaged.
        """
        sha256 = self._info.edges
        return None if sha256 is None else kept_edges(self.path, sha256)


def steps_of(edit: Edit, line: EditLine, *, back: bool) -> Iterator[Step]:
    """Yield what makes an edit, or takes it back: in pieces if it is large.

    Its line comes with the last of them.
    """
    pieces = tuple(pieces_of(edit))
    pieces = pieces[::-1] if back else pieces
    for piece in pieces[:-1]:
        yield making((piece,), back=back)
    yield making(pieces[-1:], back=back, line=line)


def making(
    edits: tuple[Edit, ...], *, back: bool = False, line: EditLine | None = None
) -> Step:
    """Return what makes edits, or takes them back, and writes a line about it."""

    def make(disk: ProjectStore) -> None:
        for edit in edits:
            disk.make(edit, back=back)
        if line is not None:
            disk.log(line)

    return make


def shelving(weights: Weights) -> Step:
    """Return what copies weights into the folder."""

    def shelve(disk: ProjectStore) -> None:
        if weights.path.is_file():  # else there is nothing to keep any more
            keep_weights(disk.folder, weights)

    return shelve


def shelving_edges(edges: EdgeClassifier) -> Step:
    """Return what writes a classifier of edges into the folder."""
    return lambda disk: keep_edges(disk.folder, edges)


def marking(marked: dict[int, Any]) -> Step:
    """Return what says which sections are reviewed and excluded."""

    def mark(disk: ProjectStore) -> None:
        disk.mark(lambda review: review.model_copy(update={"sections": marked}))

    return mark


Status = Literal["to do", "reviewed", "excluded"]


class Cells(Protocol):
    """Cells of a stack."""

    def __getitem__(self, z: int, /) -> NDArray[np.uint32]: ...


class Project(Closing, ProjectReader):
    """A project's folder, open.

    Whatever changes it returns at once: it is saved in a thread, together with what
    comes soon after, at most 2 s later. Failures come to `on_record` as `SaveFailed`;
    nothing is lost then, and it is tried again.

    Parameters
    ----------
    path
        The folder.
    author
        Who works here; edits that name nobody are theirs.
    read_only
        Don't write; else a project that another window writes to, or that lies where
        nobody may write, is opened read-only all the same.
    on_record
        Called with `Saved`, `SaveFailed` and `Note`, mostly in another thread.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    OSError
        If it is no project, damaged, or of a later version.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        author: str = "",
        read_only: bool = False,
        on_record: Listener | None = None,
    ) -> None:
        path = Path(path)
        self.author = author
        self._refusal = "asked for" if read_only else ""
        self._hold = None if read_only else self._take_hold(path)
        try:
            disk = ProjectStore(path, writing=self._hold is not None)
        except OSError:
            self._release()
            raise
        super().__init__(path, disk)
        self._autosave = None if self._hold is None else Autosave(disk, on_record)
        if self._autosave is not None:
            # also if nobody closes it, and where the program ends in good order
            self._at_end = weakref.finalize(self, self._autosave.end)
        self._renamed = 0
        self._telling = Lock()
        if self.read_only and on_record is not None and not read_only:
            on_record(Note(f"{self.path.name} is read-only: {self.why_read_only}"))

    @classmethod
    def create(
        cls,
        path: Path | str,
        stack: Stack,
        *,
        author: str = "",
        on_record: Listener | None = None,
    ) -> Self:
        """Make an empty project for a stack, of which three sections are read.

        `.emseg` is appended to a name that doesn't end so.

        Raises
        ------
        OSError
            If there is something already, it can't be written, or the stack not read.
        """
        folder = named(path)
        source = refer_to(stack, folder)
        create_folder(folder, ProjectInfo(version=__version__, source=source))
        return cls(folder, author=author, on_record=on_record)

    @property
    def read_only(self) -> bool:
        """True if nothing can be changed here; see `why_read_only`."""
        return self._autosave is None

    @property
    def why_read_only(self) -> str:
        """Why nothing can be changed here; empty if it can."""
        return self._refusal

    @property
    def waiting(self) -> int:
        """How many changes are not on the disk yet."""
        return 0 if self._autosave is None else self._autosave.waiting

    @property
    def error(self) -> OSError | None:
        """Why the latest save failed; None if it didn't."""
        return None if self._autosave is None else self._autosave.error

    def do(self, edit: Edit) -> None:
        """Save an edit."""
        self._renamed += len(edit.ids)
        self._make(edit, back=False)

    def undo(self, edit: Edit, cells: Cells | None = None) -> None:
        """Save that the latest edit was taken back.

        Parameters
        ----------
        cells
            As they are now, by section; needed for changes of ids through the stack
            that are older than the project.
        """
        if len(edit.ids) > self._renamed:
            self._undo_older(edit, cells)
        else:
            self._renamed -= len(edit.ids)
            self._make(edit, back=True)

    def put(self, name: Name, z: int, area: Area, values: NDArray[Any]) -> None:
        """Save `cells` or `corrections` `(y, x)` of an area; they are copied."""
        kept = np.array(values)
        self._add(lambda disk: disk.put(name, z, area, kept))

    def mark(self, sections: Iterable[int], status: Status) -> None:
        """Save that sections are to do, reviewed or excluded."""
        with self._telling:
            marked = dict(self._review.sections)
            for z in sections:
                marked.pop(z, None)
                if status != "to do":
                    marked[z] = status
            self._review = self._review.model_copy(update={"sections": marked})
            self._add(marking(marked))

    def lock_cells(self, cells: Iterable[int]) -> None:
        """Save which cells are locked; edits that lock do so by themselves."""
        locked = frozenset(cells)
        self._add(lambda disk: disk.lock_cells(locked))

    def review_regions(self, regions: Iterable[Region]) -> None:
        """Save which parts of sections are reviewed; edits do so by themselves."""
        reviewed = tuple(regions)
        self._add(lambda disk: disk.review_regions(reviewed))

    def constrain(self, constraints: Iterable[Constraint]) -> None:
        """Save what was merged and split through the stack; edits do by themselves."""
        said = tuple(constraints)
        self._add(lambda disk: disk.constrain(said))

    def note(self, lines: Iterable[EditLine]) -> None:
        """Save what was done elsewhere, such as in projects that this one unites."""
        for line in lines:
            self._add(making((), line=line))

    def tell(
        self,
        *,
        invert: Invert | None = None,
        weights: Weights | None = None,
        classes: tuple[str, ...] | None = None,
        settings: dict[str, dict[str, Any]] | None = None,
        segmented: dict[int, tuple[Corners, ...]] | None = None,
        segmented_by: dict[int, tuple[int, ...]] | None = None,
        linked: tuple[int, ...] | None = None,
        predicted: dict[int, tuple[Corners, ...]] | None = None,
        cells_edges: str | None = None,
        cells_edges_sha256: str | None = None,
    ) -> None:
        """Save what was chosen, and where runs found what; what is None stays.

        Weights that don't come with the program are copied into the project.
        """
        told: dict[str, Any] = {
            "invert": invert,
            "classes": classes,
            "settings": settings,
            "segmented": segmented,
            "segmented_by": segmented_by,
            "linked": linked,
            "predicted": predicted,
            "cells_edges": cells_edges,
            "cells_edges_sha256": cells_edges_sha256,
            "weights": None if weights is None else weights.card.name,
            "weights_sha256": None if weights is None else weights.sha256,
        }
        self._tell({key: value for key, value in told.items() if value is not None})
        if weights is not None and weights.path.parent not in self._known_folders:
            self._add(shelving(weights))

    def tell_edges(self, edges: EdgeClassifier | None) -> None:
        """Save which classifier of edges is chosen, None for the usual one; keep it."""
        if edges is not None:  # before anything says that it is there
            self._add(shelving_edges(edges))
        self._tell({"edges": None if edges is None else edges.sha256})

    def tell_voxel_size(self, voxel_size_nm: VoxelSize | None) -> None:
        """Save the voxel size `(z, y, x)` that counts."""
        update = {"voxel_size_nm": voxel_size_nm}
        self._tell({"source": self._info.source.model_copy(update=update)})

    def open_source(self, path: Path | str | None = None) -> OpenedSource:
        """Open the stack; from its new place `path`, which is remembered.

        Raises
        ------
        StackNotFoundError
            If it isn't where it was, and no place is given.
        ValueError
            If there is a stack of another shape.
        OSError
            If it can't be read.
        """
        source = self._info.source
        opened = open_source(source, self.path, None if path is None else Path(path))
        if path is not None and not self.read_only:
            self._tell({"source": refer_to(opened.stack, self.path)})
        return opened

    def keep_weights(self, weights: Weights | str | Path) -> Weights:
        """Copy weights into the project, and return them from there.

        Raises
        ------
        ValueError, OSError
            If the project is read-only, or they can't be copied.
        """
        self._saving()
        return keep_weights(self.path, weights)

    def flush(self, timeout: float = SECONDS) -> None:
        """Wait until everything is on the disk.

        Raises
        ------
        OSError
            If it can't be saved.
        """
        if self._autosave is not None:
            self._autosave.flush(timeout)

    def close(self) -> None:
        """Save what is left, and let others write.

        Raises
        ------
        OSError
            If it can't be saved.
        """
        try:
            if self._autosave is not None:
                self._autosave.flush(SECONDS)
        finally:
            if self._autosave is not None:
                self._at_end()
            self._release()

    def _undo_older(self, edit: Edit, cells: Cells | None) -> None:
        if cells is None:
            msg = f"{edit.words} is older than the project; pass cells as they are now"
            raise ValueError(msg)
        depth, height, width = self._info.source.shape
        for z in range(depth):
            whole = slice(0, height), slice(0, width)
            self.put("cells", z, whole, np.asarray(cells[z]))
        line = EditLine.of(edit, self.author, undone=True)
        rest = replace(edit, changes=edit.of("corrections"), ids=())
        self._add(making((rest,), back=True, line=line))

    def _make(self, edit: Edit, *, back: bool) -> None:
        """Hand over an edit."""
        line = EditLine.of(edit, self.author, undone=back)
        for step in steps_of(edit, line, back=back):
            self._add(step)

    @property
    def _known_folders(self) -> tuple[Path, ...]:
        return *bundled_folders(), self.path / FOLDER

    def _tell(self, told: dict[str, Any]) -> None:
        with self._telling:  # a run may tell what it found meanwhile
            info = self._info.model_copy(update={"version": __version__, **told})
            self._info = info
            self._add(lambda disk: disk.tell(info))

    def _add(self, step: Step) -> None:
        self._saving().add(step)

    def _saving(self) -> Autosave:
        """Return what saves; a ValueError says why nothing can be changed here."""
        if self._autosave is None:
            msg = f"{self.path.name} is read-only: {self._refusal}"
            raise ValueError(msg)
        return self._autosave

    def _take_hold(self, path: Path) -> Hold | None:
        """Claim the folder for writing; None, and why not in `why_read_only`."""
        if not path.is_dir():
            return None
        try:
            for name in WRITTEN:
                path_inside(path, name)
            return Hold(path, self.author)
        except OSError as e:
            self._refusal = e.strerror or str(e)
            return None

    def _release(self) -> None:
        if self._hold is not None:
            self._hold.release()
            self._hold = None
