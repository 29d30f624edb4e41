"""What a person did to the results of a stack: it outlives runs, and can be undone."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from threading import RLock
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_emseg.core.labels import inside_mask
from napari_emseg.core.regions import Area, Constraint, Region
from napari_emseg.core.settings import CorrectSettings
from napari_emseg.core.stack import LazyArray
from napari_emseg.proofreading import (
    Edit,
    History,
    LinkedLabels,
    SectionView,
    SmallestPieces,
    burnt_in,
    clear_section,
    joined,
    mark_reviewed,
    mark_to_do,
    paint,
    replace_values,
)
from napari_emseg.proofreading.edits import MEMBRANE, LabelArray, Name
from napari_emseg.proofreading.marking import Status
from napari_emseg.proofreading.painted import Stroke
from napari_emseg.session.resegmentation import Resegmentation
from napari_emseg.session.results import MaskedProbabilities, Results

Step = Literal["made", "undone", "redone"]
"""What was done with an edit."""


def check_labels(values: LazyArray, name: Name, wanted: LabelArray) -> None:
    """Check that values could be labels of a picture; reads all of them.

    Raises
    ------
    ValueError
        If their shape is another one, or they are no whole numbers that fit.
    """
    shape = tuple(values.shape)
    if shape != tuple(wanted.shape):
        msg = f"{name} have {wanted.shape} voxels (z, y, x), got {shape}"
        raise ValueError(msg)
    if np.dtype(values.dtype).kind not in "biu":
        msg = f"{name} are whole numbers, got {values.dtype}"
        raise ValueError(msg)
    most = int(np.iinfo(wanted.dtype).max)
    for z in range(shape[0]):
        section = np.asarray(values[z])
        low, high = int(section.min()), int(section.max())
        if low < 0 or high > most:
            msg = f"{name} are numbers from 0 to {most}, got {low} to {high}"
            raise ValueError(msg)


def login_name() -> str:
    """Return who is at work; empty where the system can't tell."""
    try:
        return getuser()
    except (ImportError, KeyError, OSError):
        return ""


def _format_replaced(name: Name, edits: Sequence[Edit]) -> str:
    pixels = sum(c.count for edit in edits for c in edit.of(name))
    words = f"{name} replaced by another program: {pixels} px"
    said = (c for edit in edits for c in edit.of("corrections"))
    if name == "cells" and any((c.new.values() == MEMBRANE).any() for c in said):
        words += "; membrane drawn where cells touch"
    return words


@dataclass(frozen=True, slots=True)
class _Work:
    """What there is once something was done to results."""

    linked: LinkedLabels
    history: History
    resegmentation: Resegmentation


class AnnotationEditor:
    """Writes membranes, cells and corrections of one stack; nobody else does.

    Only the GUI thread edits. Runs put what they find in place by `put_prediction` and
    `put_cells`, which keep what was done by hand. Pictures are made with the first of
    either, see `begin`.

    Signals: `changed` with the sections that look different now; `edited` with a `Step`
    and its `Edit`, for whoever keeps a copy: every step of the history in its order,
    those of runs, too. It comes in the thread that took the step, and no other step is
    taken meanwhile. `marked` when other whole sections are reviewed or excluded.
    """

    changed = Signal(frozenset)
    edited = Signal(str, Edit)
    marked = Signal()

    def __init__(
        self,
        results: Results,
        settings: CorrectSettings | None = None,
    ) -> None:
        self.results = results
        self.settings = settings or CorrectSettings()
        self.author = login_name()
        self.given: LazyArray | None = None
        """Probabilities in [0, 1] that were opened and not predicted."""
        self.reviewed: frozenset[int] = frozenset()
        self.excluded: frozenset[int] = frozenset()
        self.refusal = ""
        """Why a person may not edit; empty if they may."""
        self._work: _Work | None = None
        # a run that starts may take cells away while a person edits
        self._lock = RLock()

    def begin(self) -> None:
        """Make room for what is done to the results, once."""
        self._begin()

    def _begin(self) -> _Work:
        work = self._work
        if work is None:
            with self._lock:  # a run and a panel may begin at once
                work = self._work = self._work or self._new_work()
        return work

    def _new_work(self) -> _Work:
        results, codes = self.results, self.results.corrections
        linked = LinkedLabels(
            results.membranes, results.cells, codes, last_id=results.last_id
        )
        history = History(linked, self.settings)
        return _Work(linked, history, Resegmentation(results, linked, codes))

    @property
    def begun(self) -> bool:
        """True if a person or a run has done something, or is about to."""
        return self._work is not None

    @property
    def linked(self) -> LinkedLabels:
        """Membranes, cells and corrections, and all else that is edited with them."""
        return self._begin().linked

    @property
    def history(self) -> History:
        """What can be undone, and done again."""
        return self._begin().history

    @property
    def corrections(self) -> NDArray[np.uint8]:
        """Codes of what was said by hand."""
        return self.results.corrections

    @property
    def _renewal(self) -> Resegmentation:
        return self._begin().resegmentation

    @property
    def probabilities(self) -> LazyArray | None:
        """Of membrane by section, NaN where unknown; None where there are none."""
        if self.given is not None:
            return self.given
        predicted = bool(self.results.predicted)
        return MaskedProbabilities(self.results) if predicted else None

    def sheet(self, z: int) -> SectionView:
        """Return a section for the tools to read.

        Raises
        ------
        ValueError
            If there is no such section, or cells are being found.
        """
        self._refuse_while_running()
        predicted = z in self.results.predicted
        # of a section that wasn't predicted the array holds 0,
        # which tools would take for inside
        own: LazyArray | None = self.results.probabilities if predicted else None
        self.linked.probabilities = own if self.given is None else self.given
        return self.linked.sheet(z)

    @property
    def regions(self) -> tuple[Region, ...]:
        """Reviewed parts of sections, in the order in which they were reviewed."""
        return self.linked.regions

    def review(self, region: Region) -> Edit:
        """Mark a region as reviewed: all that is shown in it is right.

        Raises
        ------
        ValueError
            If it is so already, nothing is shown there, or cells are being found.
        """
        predicted = region.z in self.results.predicted
        unknown = self.results.unknown(region.z) if predicted else None
        if unknown is not None and unknown[region.area].any():
            msg = f"{region.words} is not predicted to its end; run 2 Membranes"
            raise ValueError(msg)
        edit = mark_reviewed(self.sheet(region.z), region, self.regions)
        self.do(edit)
        return edit

    def unreview(self, region: Region) -> Edit:
        """Mark a reviewed region as to do again.

        Raises
        ------
        ValueError
            If it isn't reviewed, or cells are being found.
        """
        if region not in self.regions:
            msg = f"{region.words} is no reviewed region"
            raise ValueError(msg)
        sheet, regions = self.sheet(region.z), self.regions
        edit = mark_to_do(sheet, region, regions, self.history.undoable)
        self.do(edit)
        return edit

    def mark(self, z: int, status: Status) -> None:
        """Say that a whole section is to do, reviewed or excluded, in one step.

        Nothing happens if it is so already. Cells may be found meanwhile: no pixel
        changes.

        Raises
        ------
        ValueError
            If nobody may edit.
        """
        self._mark(z, status == "reviewed", status == "excluded", status)

    def finish(self, z: int, *, finished: bool = True) -> None:
        """Mark a section as reviewed, or as to do again; excluded or not, as it is.

        Raises
        ------
        ValueError
            If nobody may edit.
        """
        words = "reviewed" if finished else "to do again"
        self._mark(z, finished, z in self.excluded, words)

    def exclude(self, z: int, *, excluded: bool = True) -> None:
        """Leave a section out, or take it back in; reviewed or not, as it is.

        Raises
        ------
        ValueError
            If nobody may edit.
        """
        words = "excluded" if excluded else "no longer excluded"
        self._mark(z, z in self.reviewed, excluded, words)

    def _mark(self, z: int, reviewed: bool, excluded: bool, words: str) -> None:
        if self.refusal:
            raise ValueError(self.refusal)
        here = frozenset({z})
        edit = Edit(
            "review",
            f"marked section {z} as {words}",
            finish=here - self.reviewed if reviewed else frozenset(),
            reopen=frozenset() if reviewed else here & self.reviewed,
            exclude=here - self.excluded if excluded else frozenset(),
            include=frozenset() if excluded else here & self.excluded,
        )
        if edit.whole:
            self._make(edit)

    def do(self, edit: Edit) -> None:
        """Make an edit.

        Raises
        ------
        ValueError
            While cells are being found, or if nobody may edit.
        """
        self._refuse()
        self._make(edit)

    def _make(self, edit: Edit) -> None:
        with self._lock:
            edit = edit.by(self.author)
            self.history.do(edit)
            self._follow_marks(edit, undone=False)
            # under the lock, so that whoever keeps a copy hears of steps in their order
            self.edited.emit("made", edit)
        self._tell(edit)

    def undo(self) -> Edit:
        """Take the latest edit back.

        Raises
        ------
        ValueError
            If there is none, while cells are being found, or if nobody may edit.
        """
        return self._step("undone", self.history.undo)

    def redo(self) -> Edit:
        """Make the edit again that was undone last.

        Raises
        ------
        ValueError
            If there is none, while cells are being found, or if nobody may edit.
        """
        return self._step("redone", self.history.redo)

    def _step(self, step: Step, take: Callable[[], Edit]) -> Edit:
        self._refuse()
        with self._lock:
            edit = take()
            undone = step == "undone"
            self._follow_marks(edit, undone=undone)
            self._renewal.follow(edit, undone=undone)
            self.edited.emit(step, edit)
        self._tell(edit)
        return edit

    def _follow_marks(self, edit: Edit, *, undone: bool) -> None:
        finish, reopen = edit.finish, edit.reopen
        exclude, include = edit.exclude, edit.include
        if undone:
            # undo takes a mark back by giving the opposite one
            finish, reopen, exclude, include = reopen, finish, include, exclude
        self.reviewed = (self.reviewed | finish) - reopen
        self.excluded = (self.excluded | exclude) - include

    def repaint(self, name: Name, strokes: Sequence[Stroke]) -> Edit:
        """Make one edit of strokes of another program's brush; see `take_back`.

        Raises
        ------
        ValueError
            If all of it was refused; then it is as if nothing had been painted.
        """
        self._refuse()
        with self._lock:
            edits = self._painted(name, strokes)
            # its parts are applied already, each seen by the next:
            # noted as one step, not made again
            edit = joined(edits[0].tool, edits).by(self.author)
            self.history.note(edit)
            self.edited.emit("made", edit)
        self._tell(edit)
        return edit

    def take_over(self, name: Name, values: LazyArray) -> Edit | None:
        """Make one edit of what another program has put in place of a picture.

        Locked cells keep their pixels. None if nothing is different.

        Parameters
        ----------
        values
            Labels `(z, y, x)`.

        Raises
        ------
        ValueError
            If they can't be labels of that picture, all of it is refused, or nobody may
            edit now; then nothing has changed.
        """
        self._refuse()
        check_labels(values, name, self.linked.arrays[name])
        with self._lock:
            edits, refusals = self._replaced(name, values)
            if not edits:
                if refusals:
                    raise refusals[0]
                return None
            edit = joined("replace", edits, _format_replaced(name, edits))
            edit = edit.by(self.author)
            self.history.note(edit)
            self.edited.emit("made", edit)
        self._tell(edit)
        return edit

    def _replaced(
        self, name: Name, values: LazyArray
    ) -> tuple[list[Edit], list[ValueError]]:
        """Make the edits that give a picture other values; return what was refused."""
        edits: list[Edit] = []
        refusals: list[ValueError] = []
        for z in range(self.linked.shape[0]):
            section = np.asarray(values[z])
            making = replace_values(
                self.sheet(z), name, section, settings=self.settings
            )
            try:
                for edit in making:
                    self.linked.apply(edit)
                    edits.append(edit)
            except ValueError as refusal:
                refusals.append(refusal)
        return edits, refusals

    def settle(self, z: int) -> None:
        """Bring the ids of a section up to date, before it is shown."""
        if not self._renewal.running and self.linked.settle(z):
            self.changed.emit(frozenset({z}))

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What a person said by merging and splitting in 3-D; solutions keep it."""
        return self.linked.constraints if self.begun else ()

    def settle_next(self) -> bool:
        """Bring one more section up to date; False if none is left, or in a run."""
        z = None if self._renewal.running else self.linked.first_waiting()
        if z is None:
            return False
        self.settle(z)
        return True

    @contextmanager
    def held(self, why: str) -> Iterator[None]:
        """Let nothing change meanwhile: a person is refused, a run waits.

        Raises
        ------
        ValueError
            While cells are being found.
        """
        with self._lock:
            self._refuse_while_running()
            before, self.refusal = self.refusal, why
            try:
                yield
            finally:
                self.refusal = before

    def put_prediction(
        self, z: int, area: Area, values: NDArray[np.float32], threshold: float
    ) -> None:
        """Store probabilities `(y, x)` of an area, and its membranes."""
        results = self.results
        results.probabilities[z][area] = values
        results.membranes[z][area] = values > threshold
        self._renewal.burn(z, area, threshold)
        results.note_predicted(z, area)

    def apply_threshold(self, z: int, threshold: float) -> None:
        """Make the membranes of a predicted section anew, unless it is reviewed."""
        results = self.results
        if z in results.predicted and z not in self.reviewed:
            membranes = results.membranes[z].view(bool)
            np.greater(results.probabilities[z], threshold, out=membranes)
            _, y, x = results.shape
            self._renewal.burn(z, (slice(0, y), slice(0, x)), threshold)

    def remember(
        self,
        segmented: Mapping[int, Sequence[Area]],
        linked: Iterable[int],
        runs: Mapping[int, Sequence[int]] | None = None,
    ) -> None:
        """Know what earlier runs have given; cells and corrections are there already.

        Membranes are where there are no cells, or two touch, since probabilities aren't
        known, and as corrections say.
        """
        results = self.results
        results.remember(segmented, linked, runs)
        for z, areas in results.segmented.items():
            inside = inside_mask(results.cells[z], "cells")
            for area in areas:
                results.membranes[z][area] = ~inside[area]
        for z in range(results.shape[0]):
            corrections = results.corrections[z]
            if corrections.any():
                results.membranes[z] = burnt_in(results.membranes[z], corrections)

    def clear(self, sections: Iterable[int]) -> None:
        """Forget sections; that their membranes and cells go can be undone.

        Locked cells stay, and membranes that were drawn by hand.
        """
        sections, before = tuple(sections), self.results.found_cells
        self.results.forget(sections)
        if not self.begun:
            return
        with self._lock:
            changes = [c for z in sections for c in clear_section(self.linked, z)]
            if changes:
                n = len({change.z for change in changes})
                words = f"{n} excluded section{'s' * (n != 1)} cleared"
                edit = Edit("run", words, changes=tuple(changes))
                self.history.do(edit)
                self._renewal.note(edit, before, self._kept)
                self.edited.emit("made", edit)

    def put_cells(
        self,
        z: int,
        area: Area,
        cells: NDArray[np.uint32],
        membranes: NDArray[np.bool_] | None = None,
        *,
        minimum_size: int = 0,
    ) -> None:
        """Store cells `(y, x)` that a run found, beside those that a person keeps.

        They are a step with `finish_run`.

        Parameters
        ----------
        membranes
            Those that the cells were found in, if they aren't there yet.
        minimum_size
            What drawn membrane cuts off and is smaller, px, is no cell.
        """
        smallest = SmallestPieces(self.settings.sliver, minimum_size)
        with self._lock:
            self._renewal.put(z, area, cells, smallest)
            self.results.note_cells(z, area)
            if membranes is not None:
                self.results.membranes[z][area] = membranes

    def try_cells(self, z: int, cells: NDArray[np.uint32]) -> None:
        """Show cells `(y, x)` on trial: no step; whoever calls takes them back."""
        self.results.cells[z] = cells

    def finish_run(self) -> None:
        """Give cells that were there before their ids; keep the run as a step."""
        with self._lock:
            edit = self._renewal.finish(self._kept)
            if edit is None:
                return
            if edit.changes:
                self.history.note(edit)
                self.edited.emit("made", edit)
            self.results.last_id = self.linked.last_id

    @property
    def _kept(self) -> tuple[Edit, ...]:
        """What can be undone or redone."""
        return (*self.history.undoable, *self.history.redoable)

    def _painted(self, name: Name, strokes: Sequence[Stroke]) -> list[Edit]:
        """Paint again, with what follows in the other pictures.

        Raises
        ------
        ValueError
            If all of it is refused.
        """
        edits, refusals = [], []
        for stroke in strokes:
            where, area, value = stroke.where, stroke.area, stroke.value
            try:
                sheet = self.sheet(stroke.z)
                edit = paint(sheet, name, where, area, value, settings=self.settings)
            except ValueError as refusal:
                refusals.append(refusal)
                continue
            # applied at once, so that the next stroke sees it;
            # `note` then keeps all as one step
            self.linked.apply(edit)
            edits.append(edit)
        if not edits:
            raise refusals[0]
        return edits

    def _refuse(self) -> None:
        self._refuse_while_running()
        if self.refusal:
            raise ValueError(self.refusal)

    def _refuse_while_running(self) -> None:
        if self._renewal.running:
            msg = "cells are being found; wait for the end of the run, or cancel it"
            raise ValueError(msg)

    def _tell(self, edit: Edit) -> None:
        sections = edit.sections | edit.marked
        # an id or a lock may show in any section
        if edit.ids or edit.lock or edit.unlock:
            sections = frozenset(range(self.linked.shape[0]))
        self.changed.emit(sections)
        if edit.whole:
            self.marked.emit()
