"""Cells cut anew by a slider: shown on trial at once, kept as one step later."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import adler32

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import (
    ClassifierRef,
    Progress,
    Record,
    drain,
)
from napari_emseg.core.regions import Area
from napari_emseg.core.requirements import relabel_sequential
from napari_emseg.core.settings import CellSettings
from napari_emseg.session.runs import (
    affinities_of,
    constraints_of,
    probabilities_of,
)
from napari_emseg.session.stack_state import StackState

if TYPE_CHECKING:
    from napari_emseg.segmentation import Fragments
    from napari_emseg.segmentation.edge_classifier import EdgeClassifier
    from napari_emseg.segmentation.stack_graph import StackFragments


Token = tuple[str, int, float, int]
"""Of what fragments were made: stack, section, threshold, checksum of probabilities."""


MOST_VOXELS = 2**24
"""Of stacks whose cells through sections can be tried: more is a run's work."""


@dataclass(frozen=True, slots=True)
class CellsKept:
    """How many cells are in how many sections now, by settings that were on trial."""

    cells: int
    sections: int
    constraints: tuple[int, int] = (0, 0)
    """How many merges and splits by hand were kept, and of how many."""


class AgglomerationPreview:
    """Tries cell settings on one section of a stack.

    `show` puts cells in place in milliseconds once `find` has been there; they are only
    on trial until `keep` makes them a step that can be undone, or `drop` takes them
    back. Where cells are found through the stack, `find` is for all sections, `show`
    for one, and `keep`, in moments, for all again.

    Parameters
    ----------
    edges
        Gives the classifier of edges that runs would go by; None for the usual one.
    """

    def __init__(
        self,
        source: StackState,
        edges: Callable[[], EdgeClassifier | None] = lambda: None,
    ) -> None:
        self.source = source
        self._edges = edges
        self._by: ClassifierRef | None = None
        self._token: Token | None = None
        self._fragments: Fragments | None = None
        self._stack: _HeldStack | None = None
        self._trial: tuple[int, CellSettings] | None = None
        self._before: _Before | None = None

    @property
    def on_trial(self) -> bool:
        """True between `show` and `keep` or `drop`."""
        return self._trial is not None

    def able(self, z: int, settings: CellSettings | None = None) -> bool:
        """Tell if the whole section has cells and probabilities, and is not reviewed.

        By settings for cells through the stack all of its sections must have them, as
        cells would be cut of nothing elsewhere, and fit into memory.
        """
        if self._unknown(z) or z in self.source.editor.reviewed:
            return False
        alone = settings is None or self._through(settings).through == "sections"
        missing = self.missing(z, settings)
        return not missing and (alone or self._can_hold())

    def missing(self, z: int, settings: CellSettings | None = None) -> list[int]:
        """Return sections with cells whose probabilities aren't there (any more)."""
        if self.source.is_probabilities:
            return []
        alone = settings is None or self._through(settings).through == "sections"
        results = self.source.results
        asked = [z] if alone else self._whole
        return [each for each in asked if results.unknown(each) is not None]

    def _through(self, settings: CellSettings) -> CellSettings:
        """Return settings that say how the stack's cells are found."""
        return self.source.settled(settings, len(self._whole))

    @property
    def _whole(self) -> list[int]:
        """Sections of which all has cells."""
        results = self.source.results
        return [z for z in sorted(results.segmented) if not self._unknown(z)]

    def _unknown(self, z: int) -> bool:
        return self.source.results.unknown_cells(z) is not None

    def _can_hold(self) -> bool:
        """Tell if the stack's fragments can be kept, and a run would join them all."""
        from napari_emseg.segmentation.linker import BRIDGE

        whole, (_, *sides) = self._whole, self.source.results.shape
        span = whole[-1] - whole[0] + 1
        together = bool(max(np.diff(whole), default=1) <= BRIDGE + 1)
        return together and span * int(np.prod(sides)) <= MOST_VOXELS

    def knows(self, z: int, settings: CellSettings) -> bool:
        """Tell if `show` can be called."""
        return self._token == self._token_of(z, settings)

    def find(self, z: int, settings: CellSettings) -> Generator[Record, None, None]:
        """Find the fragments of a section: a quarter of a second for 1024² px.

        Of a stack it takes what a run would, less the writing.
        """
        from napari_emseg.segmentation import section_fragments

        settled = self._through(settings)
        if settled.through != "sections":
            yield from self._find_stack(z, settled)
            return
        yield Progress("fragments", 0, 1)
        token = self._token_of(z, settings)
        values, exclude = probabilities_of(self.source, z)
        found = section_fragments(values, settings.threshold, exclude=exclude)
        self._fragments, self._stack, self._token = found, None, token
        yield Progress("fragments", 1, 1)

    def _find_stack(
        self, z: int, settings: CellSettings
    ) -> Generator[Record, None, None]:
        """Find the fragments of all sections."""
        from napari_emseg.segmentation.stack import iter_find_for_preview, read_volume

        token, whole = self._token_of(z, settings), self._whole
        _, height, width = self.source.results.shape
        membrane, absent = yield from read_volume(
            lambda at: probabilities_of(self.source, at), whole, (height, width)
        )
        area: Area = (slice(0, height), slice(0, width))
        said, edges = affinities_of(self.source, area), self._edges()
        found = yield from iter_find_for_preview(
            membrane,
            absent,
            settings,
            said and said.starting(whole[0]),
            constraints_of(self.source, area, whole[0]),
            edges,
        )
        by_graph = edges is not None and settings.through == "graph"
        self._by = edges.ref if edges is not None and by_graph else None
        self._fragments, self._token = None, token
        self._stack = _HeldStack(found, whole[0], frozenset(absent))

    def show(self, z: int, settings: CellSettings) -> None:
        """Put the cells of other settings in place, on trial.

        Raises
        ------
        ValueError
            If the fragments aren't known.
        """
        if not self.knows(z, settings):
            msg = f"the fragments of section {z} must be found first"
            raise ValueError(msg)
        if self._trial is not None and self._trial[0] != z:
            self.keep()
        results = self.source.results
        if self._before is None:
            self._before = _Before.of(results.cells[z])
        found = self._cells(settings)(z)
        named = self._before.named(found, results.last_id)
        self.source.editor.try_cells(z, named)
        self._trial = (z, settings)

    def keep(self) -> None:
        """Make what is on trial a step: hand work stays, known cells keep their ids."""
        drain(self.iter_keep())

    def iter_keep(self) -> Generator[Record, None, CellsKept | None]:
        """Do so section by section; of a stack it takes a moment."""
        trial = self._trial
        self.drop()
        if trial is None:
            return None
        z, settings = trial
        editor, cells = self.source.editor, self._cells(settings, local=False)
        _, height, width = editor.results.shape
        area: Area = (slice(0, height), slice(0, width))
        together = [each for each in self._together(z) if self.able(each)]
        ids = set[int]()
        try:
            for done, each in enumerate(together, start=1):
                found = cells(each)
                ids.update(np.unique(found).tolist())
                editor.put_cells(each, area, found, minimum_size=settings.minimum_size)
                yield Progress("cells", done, len(together))
        finally:
            if self._stack is not None:
                editor.results.note_links(tuple(together), linked=True)
                editor.results.edges = self._by
            editor.finish_run()
        said = () if self._stack is None else editor.constraints
        kept = sum(c.is_kept(editor.results.cells) for c in said)
        return CellsKept(len(ids - {0}), len(together), (kept, len(said)))

    @property
    def of_stack(self) -> bool:
        """True if what is on trial is kept in all sections."""
        return self._stack is not None

    def _together(self, z: int) -> list[int]:
        return [z] if self._stack is None else self._whole

    def _cells(
        self, settings: CellSettings, *, local: bool = True
    ) -> Callable[[int], NDArray[np.uint32]]:
        """Return what gives the cells of a section; `local` ones are 1, 2, …."""
        if self._fragments is not None:
            fragments = self._fragments
            return lambda _: fragments.cells(settings)
        held = self._stack
        if held is None:
            msg = "no fragments are known"
            raise ValueError(msg)
        ids = held.fragments.joined(settings)

        def section(z: int) -> NDArray[np.uint32]:
            if z - held.first in held.absent:
                return np.zeros(self.source.results.shape[1:], np.uint32)
            found = held.fragments.section(z - held.first, ids, settings)
            return np.asarray(relabel_sequential(found)[0]) if local else found

        return section

    def drop(self) -> None:
        """Put back what was there before."""
        if self._trial is not None and self._before is not None:
            self.source.editor.try_cells(self._trial[0], self._before.cells)
        self._trial = self._before = None

    def _token_of(self, z: int, settings: CellSettings) -> Token:
        results = self.source.results
        values: NDArray[Any] = (
            np.asarray(self.source.stack.section(z))
            if self.source.is_probabilities
            else results.probabilities[z]
        )
        # a checksum, since arrays are changed in place;
        # quick, and only against oversight
        sums = adler32(np.ascontiguousarray(values).data)
        sums = adler32(np.ascontiguousarray(results.corrections[z]).data, sums)
        if self._through(settings).through == "sections":
            return self.source.key, z, settings.threshold, sums
        return self._stack_token(settings)

    def _stack_token(self, settings: CellSettings) -> Token:
        """Of what the fragments of all sections are made, whichever is looked at."""
        results, whole = self.source.results, self._whole
        settled = self._through(settings)
        known = sorted(results.with_affinities)
        by_hand = self.source.editor.constraints
        edges = self._edges()
        by = "" if edges is None else edges.sha256
        said = f"{settled.through} {settled.shift} {whole} {known} {by_hand} {by}"
        sums = adler32(np.ascontiguousarray(results.corrections[whole]).data)
        sums = adler32(said.encode(), sums)
        if not self.source.is_probabilities:
            # every eighth pixel sees what a run has changed, and is quick enough
            sample = results.probabilities[whole][:, ::8, ::8]
            sums = adler32(np.ascontiguousarray(sample).data, sums)
        return self.source.key, -1, settings.threshold, sums


@dataclass(frozen=True, slots=True, eq=False)
class _HeldStack:
    """Fragments of sections from `first` on; `absent` places have no picture."""

    fragments: StackFragments
    first: int
    absent: frozenset[int]


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
        # ascending, so that the largest overlap of each cell is written last and stays
        order = np.argsort(overlap.shared, kind="stable")
        n = int(found.max()) + 1
        theirs, ours = np.zeros(n, np.int64), np.zeros(len(self.ids), np.int64)
        theirs[overlap.after[order]] = overlap.before[order]
        ours[overlap.before[order]] = overlap.after[order]
        # each is the other's best: so no id is given twice
        mutual = (theirs > 0) & (ours[theirs] == np.arange(n))
        new = last_id + np.arange(n)
        ids = np.where(mutual, self.ids[theirs], new).astype(np.uint32)
        ids[0] = 0
        named: NDArray[np.uint32] = np.take(ids, found)
        return named
