"""One section cut anew while a slider moves: its fragments are found only once."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import adler32

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.bioimage import relabel_sequential
from napari_emseg.core.records import Progress, Record
from napari_emseg.core.settings import CellSettings
from napari_emseg.session.run_scope import Area

if TYPE_CHECKING:
    from napari_emseg.segmentation import Fragments
    from napari_emseg.session.stack_state import StackState

Token = tuple[str, int, float, int]
"""Of what fragments were made: stack, section, threshold, checksum of probabilities."""


class AgglomerationPreview:
    """Tries cell settings on one section of a stack.

    `show` puts cells in place in milliseconds once `find` has been there; they are only
    on trial until `keep` makes them a step that can be undone, or `drop` takes them
    back.
    """

    def __init__(self, source: StackState) -> None:
        self.source = source
        self._token: Token | None = None
        self._fragments: Fragments | None = None
        self._trial: tuple[int, CellSettings] | None = None
        self._before: _Before | None = None

    @property
    def on_trial(self) -> bool:
        """True between `show` and `keep` or `drop`."""
        return self._trial is not None

    def able(self, z: int) -> bool:
        """Tell if the whole section has cells, and is not reviewed."""
        results = self.source.results
        return results.unknown_cells(z) is None and z not in results.hand.reviewed

    def knows(self, z: int, settings: CellSettings) -> bool:
        """Tell if `show` can be called."""
        return self._token == self._token_of(z, settings)

    def find(self, z: int, settings: CellSettings) -> Generator[Record, None, None]:
        """Find the fragments of a section: a quarter of a second for 1024² px."""
        from napari_emseg.segmentation import section_fragments
        from napari_emseg.session.runs import probabilities_of

        yield Progress("fragments", 0, 1)
        token = self._token_of(z, settings)
        values, exclude = probabilities_of(self.source, z)
        found = section_fragments(values, settings.threshold, exclude=exclude)
        self._fragments, self._token = found, token
        yield Progress("fragments", 1, 1)

    def show(self, z: int, settings: CellSettings) -> None:
        """Put the cells of other settings in place, on trial.

        Raises
        ------
        ValueError
            If the fragments aren't known.
        """
        if self._fragments is None or not self.knows(z, settings):
            msg = f"the fragments of section {z} must be found first"
            raise ValueError(msg)
        if self._trial is not None and self._trial[0] != z:
            self.keep()
        section = self.source.results.cells[z]
        if self._before is None:
            self._before = _Before.of(section)
        found = self._fragments.cells(settings)
        section[...] = self._before.named(found, self.source.results.last_id)
        self._trial = (z, settings)

    def keep(self) -> None:
        """Make what is on trial a step: hand work stays, known cells keep their ids."""
        trial, fragments = self._trial, self._fragments
        self.drop()
        if trial is None or fragments is None:
            return
        z, settings = trial
        results = self.source.results
        _, height, width = results.shape
        whole: Area = (slice(0, height), slice(0, width))
        results.put_cells(z, whole, fragments.cells(settings))
        results.hand.finish_run()

    def drop(self) -> None:
        """Put back what was there before."""
        if self._trial is not None and self._before is not None:
            self.source.results.cells[self._trial[0]] = self._before.cells
        self._trial = self._before = None

    def _token_of(self, z: int, settings: CellSettings) -> Token:
        results = self.source.results
        values: NDArray[Any] = (
            np.asarray(self.source.stack.section(z))
            if self.source.is_probabilities
            else results.probabilities[z]
        )
        sums = adler32(np.ascontiguousarray(values).data)
        sums = adler32(np.ascontiguousarray(results.corrections[z]).data, sums)
        return self.source.key, z, settings.threshold, sums


@dataclass(frozen=True, slots=True, eq=False)
class _Before:
    """Cells `(y, x)` as they were, and numbered 1 … n; `ids[k]` is what k was."""

    cells: NDArray[np.uint32]
    local: NDArray[np.uint32]
    ids: NDArray[np.uint32]

    @classmethod
    def of(cls, cells: NDArray[np.uint32]) -> _Before:
        kept = np.ascontiguousarray(cells).copy()
        local, _, ids = relabel_sequential(kept)
        return cls(kept, local, np.asarray(ids, np.uint32))

    def named(self, found: NDArray[np.uint32], last_id: int) -> NDArray[np.uint32]:
        """Give cells the ids of those that they share most with, others new ones."""
        from napari_emseg.segmentation import overlap_of

        overlap = overlap_of(self.local, found)
        order = np.argsort(overlap.shared, kind="stable")
        n = int(found.max()) + 1
        theirs, ours = np.zeros(n, np.int64), np.zeros(len(self.ids), np.int64)
        theirs[overlap.after[order]] = overlap.before[order]
        ours[overlap.before[order]] = overlap.after[order]
        mutual = (theirs > 0) & (ours[theirs] == np.arange(n))
        new = last_id + np.arange(n)
        ids = np.where(mutual, self.ids[theirs], new).astype(np.uint32)
        ids[0] = 0
        named: NDArray[np.uint32] = np.take(ids, found)
        return named
