"""A project's folder as it is and as it is to become: changes wait here for a save."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import RLock
from time import monotonic, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Constraint, Region
from napari_emseg.io.errors import UnreadableError
from napari_emseg.project.folder import (
    ARRAYS,
    EDITS,
    INFO,
    REVIEW,
    SAVED,
    as_json,
    parsed,
    read_info,
    whole_lines,
)
from napari_emseg.project.journal import Chunked, Journal
from napari_emseg.project.state import (
    EditLine,
    ProjectInfo,
    Renaming,
    ReviewState,
    Said,
)
from napari_emseg.proofreading.edits import Edit, IdChange, LabelArray, Name
from napari_emseg.proofreading.linked import LinkedLabels


class Nothing:
    """Zeros `(z, y, x)` that stay so: membranes follow from the rest."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.uint8)

    def __getitem__(self, key: Any, /) -> NDArray[np.uint8]:
        empty: NDArray[np.uint8] = np.broadcast_to(np.uint8(0), self.shape)[key]
        return empty

    def __setitem__(self, key: Any, value: Any, /) -> None:
        pass


class Mirror(LinkedLabels):
    """Cells and corrections in files, and how far ids are written into each section."""

    def __init__(
        self, cells: LabelArray, corrections: LabelArray, review: ReviewState
    ) -> None:
        z, y, x = cells.shape
        nothing = Nothing((z, y, x))
        super().__init__(nothing, cells, corrections, last_id=review.last_id)
        self.locked = frozenset(review.locked)
        self.regions = review.reviewed_regions
        self.constraints = tuple(said.constraint for said in review.constraints)
        # the log of id changes goes on where the last sitting ended; see `LinkedLabels`
        self._ids = [
            IdChange(r.source, r.target, r.first, r.stop) for r in review.renamed
        ]
        self._settled = [review.settled.get(z, 0) for z in range(self.shape[0])]

    def part_of(self, review: ReviewState) -> ReviewState:
        """Return the review state with what is known here."""
        renamed = tuple(
            Renaming(source=i.source, target=i.target, first=i.first, stop=i.stop)
            for i in self._ids
        )
        return review.model_copy(
            update={
                "locked": tuple(sorted(self.locked)),
                "regions": tuple(region.as_tuple() for region in self.regions),
                "last_id": self.last_id,
                "renamed": renamed,
                "settled": {z: n for z, n in enumerate(self._settled) if n},
                "constraints": tuple(map(Said.of, self.constraints)),
            }
        )


PIECE = 64
"""An edit of more changes, such as a run's, is saved in several steps."""

PATIENCE = 5.0
"""Seconds that a reader waits for a save of another window to end."""


class ProjectStore:
    """Reads a project's folder, takes changes, and saves them together.

    Not more than one thread at a time: `lock` is held by each method that is public.

    Raises
    ------
    UnreadableError
        If the folder is no project, is damaged, or of a later program.
    """

    def __init__(self, folder: Path, *, writing: bool) -> None:
        self.folder = folder
        self.lock = RLock()
        self._journal = Journal(folder, SAVED)
        if writing:
            self._journal.finish()
        else:
            _wait_for(lambda: not self._journal.waiting)
        self.info = read_info(folder)
        shape = self.info.source.shape
        self.review = _read_review(folder, shape)
        self._arrays = {
            kind: Chunked(folder / name, shape, dtype)
            for kind, (name, dtype) in ARRAYS.items()
        }
        self._mirror = Mirror(
            self._arrays["cells"], self._arrays["corrections"], self.review
        )
        self._lines: list[EditLine] = []
        # bytes of whole lines; half a line that a crash has left is overwritten
        self._length = whole_lines(folder / EDITS)
        self._info_changed = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(z, y, x)` of the stack."""
        return self._arrays["cells"].shape

    def section(self, name: Name, z: int) -> Any:
        """Return cells or corrections of a section `(y, x)`."""
        with self.lock:
            if name == "cells":
                return self._mirror.up_to_date(z)
            return self._arrays[name][z]

    @property
    def nbytes(self) -> int:
        """Memory of what is not saved."""
        return sum(array.nbytes_changed for array in self._arrays.values())

    def make(self, edit: Edit, *, back: bool) -> None:
        """Make an edit, or take the latest one back."""
        with self.lock:
            if back:
                self._mirror.revert(edit)
            else:
                self._mirror.apply(edit)

    def put(self, name: Name, z: int, area: Any, values: Any) -> None:
        """Store an area of a section; ids that wait for it count as written."""
        with self.lock:
            if name == "cells":
                # values come with all ids in; written after, older
                # changes would rename them once more
                self._mirror.settle(z)
                self._mirror.last_id = max(self._mirror.last_id, int(values.max()))
            self._arrays[name][(z, *area)] = values

    def log(self, line: EditLine) -> None:
        """Add a line to `edits.jsonl`."""
        with self.lock:
            self._lines.append(line)

    def mark(self, change: Callable[[ReviewState], ReviewState]) -> None:
        """Change `review.json`."""
        with self.lock:
            self.review = change(self.review)

    def lock_cells(self, locked: frozenset[int]) -> None:
        """Say which cells are locked."""
        with self.lock:
            self._mirror.locked = locked

    def review_regions(self, regions: tuple[Region, ...]) -> None:
        """Say which parts of sections are reviewed."""
        with self.lock:
            self._mirror.regions = regions

    def constrain(self, constraints: tuple[Constraint, ...]) -> None:
        """Say what was merged and split through the stack."""
        with self.lock:
            self._mirror.constraints = constraints

    def tell(self, info: ProjectInfo) -> None:
        """Change `project.json`."""
        with self.lock:
            self.info = info
            self._info_changed = True

    def finish(self) -> None:
        """Put what a broken-off save has left into its place.

        Raises
        ------
        OSError
            If that can't be done now.
        """
        with self.lock:
            self._journal.finish()

    def save(self) -> None:
        """Write what has changed: after a crash all of it is there, or nothing.

        Raises
        ------
        OSError
            If it can't be written now; then it's still here, and may be tried again.
        """
        with self.lock:
            self._check_same()
            self._journal.begin()
            for name, array in self._arrays.items():
                for chunk, content in array.changed():
                    self._journal.replace(f"{ARRAYS[name][0]}/{chunk}", content)
            review = self._mirror.part_of(self.review)
            review = review.model_copy(update={"saves": review.saves + 1})
            self._journal.replace(REVIEW, as_json(review))
            if self._info_changed:
                self._journal.replace(INFO, as_json(self.info))
            lines = "".join(
                line.model_dump_json(exclude_defaults=True) + "\n"
                for line in self._lines
            ).encode()
            if lines:
                self._journal.append(EDITS, lines, self._length)
            self._journal.commit()
            # committed: from here on the changes count, even if
            # moving them fails and is done later
            self._saved(review, len(lines))
            self._journal.finish()

    def _saved(self, review: ReviewState, more: int) -> None:
        """Forget what has been written."""
        for array in self._arrays.values():
            array.written()
        self.review = review
        self._info_changed = False
        self._lines.clear()
        self._length += more

    def _check_same(self) -> None:
        """Refuse to write into another folder of the same name."""
        path = self.folder / INFO
        if not path.exists():
            msg = f"the folder {self.folder} is no longer there"
            raise FileNotFoundError(msg)
        if read_info(self.folder).id != self.info.id:
            msg = f"{self.folder} is another project now"
            raise FileNotFoundError(msg)


def pieces_of(edit: Edit) -> Iterator[Edit]:
    """Yield the parts of an edit that are saved one after the other."""
    whole = edit.changes
    # ids, locks and marks go with the last piece, which is what makes the edit whole
    last = max(0, (len(whole) - 1) // PIECE)
    for nth in range(last):
        some = whole[nth * PIECE : (nth + 1) * PIECE]
        yield Edit(edit.tool, changes=some, time=edit.time)
    yield replace(edit, changes=whole[last * PIECE :])


def _read_review(folder: Path, shape: tuple[int, int, int]) -> ReviewState:
    """Read `review.json` of a project on a stack `(z, y, x)`.

    Raises
    ------
    UnreadableError
        If it is missing or damaged.
    """
    review = parsed(folder / REVIEW, ReviewState)
    try:
        review.check_inside(shape)
    except ValueError as e:
        msg = f"{folder / REVIEW} is damaged: {e}"
        raise UnreadableError(msg) from e
    return review


def _wait_for(done: Callable[[], bool]) -> None:
    until = monotonic() + PATIENCE
    while not done() and monotonic() < until:
        sleep(0.02)
