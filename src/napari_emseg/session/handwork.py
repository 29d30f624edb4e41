"""What a person did to the results of a stack: it outlives runs, and can be undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from napari_emseg.core.correcting import CorrectSettings
from napari_emseg.core.stack import LazyArray
from napari_emseg.edit import (
    Edit,
    History,
    Linked,
    Rerun,
    Sheet,
    burnt_in,
    joined,
    paint,
)
from napari_emseg.edit.edits import Name
from napari_emseg.session.region import Area

if TYPE_CHECKING:
    from napari_emseg.session.results import Results


@dataclass(frozen=True, slots=True, eq=False)
class Stroke:
    """Pixels of one section that were painted already.

    Parameters
    ----------
    where
        Mask `(y, x)` of the pixels in `area`.
    old
        Their values before: one for each, or one for all.
    value
        What they were painted with.
    """

    z: int
    area: Area
    where: NDArray[np.bool_]
    old: NDArray[Any]
    value: int


class HandWork:
    """Corrections of the results of one stack.

    Only the GUI thread edits. Runs put what they find in place by `burn` and
    `put_cells`, which keep what was done by hand.

    Signals: `changed` with the sections that look different now.
    """

    changed = Signal(frozenset)

    def __init__(
        self,
        results: Results,
        corrections: NDArray[np.uint8],
        settings: CorrectSettings | None = None,
    ) -> None:
        self.settings = settings or CorrectSettings()
        self.author = ""
        self.given: LazyArray | None = None
        """Probabilities that were opened and not predicted."""
        self.reviewed: frozenset[int] = frozenset()
        self.corrections = corrections
        self._results = results
        self.linked = Linked(
            results.membranes, results.cells, corrections, last_id=results.last_id
        )
        self.history = History(self.linked, self.settings)
        self._renewed: dict[int, tuple[datetime, float]] = {}
        self._rerun: Rerun | None = None

    def sheet(self, z: int) -> Sheet:
        """Return a section for the tools to read.

        Raises
        ------
        ValueError
            If there is no such section, or cells are being found.
        """
        self._refuse_while_running()
        predicted = z in self._results.predicted
        own = self._results.probabilities if predicted else None
        self.linked.probabilities = own if self.given is None else self.given
        return self.linked.sheet(z)

    def do(self, edit: Edit) -> None:
        """Make an edit.

        Raises
        ------
        ValueError
            While cells are being found.
        """
        self._refuse_while_running()
        self.history.do(edit.by(self.author))
        self._tell(edit)

    def undo(self) -> Edit:
        """Take the latest edit back.

        Raises
        ------
        ValueError
            If there is none, or while cells are being found.
        """
        self._refuse_while_running()
        edit = self.history.undo()
        self._follow_threshold(edit)
        self._tell(edit)
        return edit

    def redo(self) -> Edit:
        """Make the edit again that was undone last.

        Raises
        ------
        ValueError
            If there is none, or while cells are being found.
        """
        self._refuse_while_running()
        edit = self.history.redo()
        self._follow_threshold(edit)
        self._tell(edit)
        return edit

    def absorb(self, name: Name, strokes: Sequence[Stroke]) -> Edit:
        """Make one edit of strokes that another program's brush has painted.

        Raises
        ------
        ValueError
            If all of it was refused; then it is as if nothing had been painted.
        """
        array = self.linked.arrays[name]
        for stroke in reversed(strokes):
            key = (stroke.z, *stroke.area)
            window = np.array(array[key])
            window[stroke.where] = stroke.old
            array[key] = window
        edits, refusals = [], []
        for stroke in strokes:
            try:
                edit = self._painted(name, stroke)
            except ValueError as refusal:
                refusals.append(refusal)
                continue
            self.linked.apply(edit)
            edits.append(edit)
        if not edits:
            raise refusals[0]
        edit = joined(edits[0].tool, edits).by(self.author)
        self.history.note(edit)
        self._tell(edit)
        return edit

    def settle(self, z: int) -> None:
        """Bring the ids of a section up to date, before it is shown."""
        if self._rerun is None and self.linked.settle(z):
            self.changed.emit(frozenset({z}))

    def burn(self, z: int, area: Area, threshold: float) -> None:
        """Put corrections into membranes that were just made by a threshold."""
        self._renewed[z] = datetime.now(UTC), threshold
        corrections = self.corrections[z][area]
        if corrections.any():
            membranes = self._results.membranes[z][area]
            membranes[...] = burnt_in(membranes, corrections)

    def put_cells(self, z: int, area: Area, cells: NDArray[np.uint32]) -> None:
        """Store cells `(y, x)` that a run found; see `finish_run`."""
        if self._rerun is None:
            self.linked.settle_all()
            self._rerun = Rerun(
                self.linked.arrays["cells"],
                last_id=self.linked.last_id,
                locked=self.linked.locked,
            )
        self._rerun.put(z, area, cells, self.corrections[z][area])

    def finish_run(self) -> None:
        """Give cells that were there before their ids; keep the run as a step."""
        if self._rerun is None:
            return
        rerun, self._rerun = self._rerun, None
        edit = rerun.finish()
        if edit.changes:
            self.history.note(edit)
        self._results.last_id = self.linked.last_id

    def _painted(self, name: Name, stroke: Stroke) -> Edit:
        sheet = self.sheet(stroke.z)
        where, area, value = stroke.where, stroke.area, stroke.value
        return paint(sheet, name, where, area, value, settings=self.settings)

    def _refuse_while_running(self) -> None:
        if self._rerun is not None:
            msg = "cells are being found; wait for the end of the run, or cancel it"
            raise ValueError(msg)

    def _follow_threshold(self, edit: Edit) -> None:
        """Make membranes anew where an edit is older than they are."""
        for change in edit.of("corrections"):
            renewed, threshold = self._renewed.get(change.z, (edit.time, 0.0))
            if renewed <= edit.time:
                continue
            likely = self._results.probabilities[change.z][change.area]
            membranes = self._results.membranes[change.z][change.area]
            corrections = self.corrections[change.z][change.area]
            found = (likely > threshold).astype(np.uint8)
            membranes[...] = burnt_in(found, corrections)

    def _tell(self, edit: Edit) -> None:
        sections = edit.sections
        if edit.ids or edit.lock or edit.unlock:
            sections = frozenset(range(self.linked.shape[0]))
        self.changed.emit(sections)
