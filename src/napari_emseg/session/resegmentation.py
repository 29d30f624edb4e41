"""What runs find in place of what was there: ids stay, and what is corrected wins."""

from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.regions import Area
from napari_emseg.proofreading import (
    Edit,
    LinkedLabels,
    Rerun,
    SmallestPieces,
    burnt_in,
)
from napari_emseg.session.results import FoundCells, Results


class Resegmentation:
    """Membranes and cells that runs find, and what they replace.

    Not safe for threads by itself; `AnnotationEditor` takes one step at a time.

    Parameters
    ----------
    results
        Where membranes and probabilities are, and which sections are linked.
    linked
        The cells, and all else that is edited with them.
    corrections
        Codes `(z, y, x)` of what was said by hand; they are burnt into membranes.
    """

    def __init__(
        self, results: Results, linked: LinkedLabels, corrections: NDArray[np.uint8]
    ) -> None:
        self._results = results
        self._linked = linked
        self._corrections = corrections
        self._rerun: Rerun | None = None
        self._before = results.found_cells
        self._found: dict[datetime, tuple[FoundCells, FoundCells]] = {}
        """Before and after a run, by the time of its edit."""
        # by section, when membranes were last cut at a threshold, and at which: undoing
        # an older edit must not bring those of another threshold back
        self._cut: dict[int, tuple[datetime, float]] = {}

    @property
    def running(self) -> bool:
        """True while cells are being found."""
        return self._rerun is not None

    def burn(self, z: int, area: Area, threshold: float) -> None:
        """Put corrections into membranes that were just made by a threshold."""
        self._cut[z] = datetime.now(UTC), threshold
        corrections = self._corrections[z][area]
        if corrections.any():
            membranes = self._results.membranes[z][area]
            membranes[...] = burnt_in(membranes, corrections)

    def put(
        self,
        z: int,
        area: Area,
        cells: NDArray[np.uint32],
        smallest: SmallestPieces = SmallestPieces(),  # noqa: B008 - frozen
    ) -> None:
        """Store cells `(y, x)` that a run found; see `finish`."""
        if self._rerun is None:
            self._linked.settle_all()
            self._before = self._results.found_cells
            self._results.begin_cells()
            self._rerun = Rerun(
                self._linked.arrays["cells"],
                last_id=self._linked.last_id,
                locked=self._linked.locked,
            )
        self._rerun.put(z, area, cells, self._corrections[z][area], smallest)

    def finish(self, kept: Iterable[Edit]) -> Edit | None:
        """Give cells that were there before their ids; return what the run changed.

        None if no run put cells anywhere.

        Parameters
        ----------
        kept
            What can still be undone or redone; of other runs nothing is remembered.
        """
        if self._rerun is None:
            return None
        try:
            edit = self._rerun.finish()
        finally:  # from now on a person may edit again
            self._rerun = None
        if edit.changes:
            self.note(edit, self._before, (*kept, edit))
        return edit

    def note(self, edit: Edit, before: FoundCells, kept: Iterable[Edit]) -> None:
        """Remember where cells were found before an edit of a run, and after it."""
        times = {one.time for one in kept}
        self._found = {t: found for t, found in self._found.items() if t in times}
        self._found[edit.time] = before, self._results.found_cells

    def follow(self, edit: Edit, *, undone: bool) -> None:
        """Follow an edit that was undone or redone, where runs came in between."""
        if edit.time in self._found:
            before, after = self._found[edit.time]
            if undone:
                self._results.bring_back(before, after)
            else:
                self._results.bring_back(after, before)
        for change in edit.of("corrections"):
            at, threshold = self._cut.get(change.z, (edit.time, 0.0))
            if at > edit.time and change.z in self._results.predicted:
                self._cut_anew(change.z, change.area, threshold)

    def _cut_anew(self, z: int, area: Area, threshold: float) -> None:
        likely = self._results.probabilities[z][area]
        found = (likely > threshold).astype(np.uint8)
        membranes = self._results.membranes[z][area]
        membranes[...] = burnt_in(found, self._corrections[z][area])
