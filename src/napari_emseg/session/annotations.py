"""What a person did to a stack, and existing annotations → sets to learn from.

What is asked for in the window is a snapshot of what there is; pixels are read later,
in the thread that learns from them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.labels import (
    Labelled,
    Meaning,
    inside_mask,
    is_drawn,
    touching,
)
from napari_emseg.core.records import Note, Progress, Record
from napari_emseg.core.regions import Region
from napari_emseg.core.settings import Invert
from napari_emseg.core.stack import LazyArray, Stack
from napari_emseg.proofreading.edits import INSIDE, MEMBRANE, NO_OPINION
from napari_emseg.proofreading.history import Correction
from napari_emseg.session.annotation_editor import AnnotationEditor
from napari_emseg.session.edge_learning import ProofreadCells
from napari_emseg.session.results import Results
from napari_emseg.session.stack_state import StackState

if TYPE_CHECKING:
    from napari_emseg.training.corrections import LabelMeaning, TrainingSet

WALL = 2
"""Membrane this close to a locked cell is as right as the cell, px."""

BY_ITSELF = ("run", "review")
"""What the history names so is no correction."""


class AnnotationSource(Protocol):
    """Something that weights can learn from."""

    @property
    def source_key(self) -> str:
        """By which its stack is known in the window."""

    @property
    def stack(self) -> Stack:
        """The EM."""

    @property
    def excluded(self) -> frozenset[int]:
        """Sections that nothing is learnt from."""

    def regions(self) -> tuple[Region, ...]:
        """Return where everything counts; may read, so not for the window."""

    def read(self, invert: Invert) -> Generator[Record, None, TrainingSet]:
        """Read what is known."""


@dataclass(frozen=True, slots=True, eq=False)
class ManualCorrections:
    """What was done by hand to one stack, up to a moment.

    A stroke that is made while sections are read is learnt now or in the next round.

    Parameters
    ----------
    corrections
        How many there are.
    corrected
        Where they are: the smallest region around what each changed in a section.
    """

    source: StackState
    reviewed: tuple[Region, ...]
    locked: frozenset[int]
    corrections: int
    corrected: tuple[Region, ...] = ()
    time: datetime = field(default_factory=lambda: datetime.now(UTC))

    @classmethod
    def of(cls, source: StackState) -> ManualCorrections:
        """Look at a stack; takes no longer for a large one."""
        begun = source.editor.begun
        locked = source.editor.linked.locked if begun else frozenset()
        areas = tuple(
            Region.of(z, area)
            for correction in _corrections(source)
            for z, area in correction.areas.items()
        )
        reviewed = source.reviewed_regions
        return cls(source, reviewed, locked, corrected(source), areas)

    @property
    def source_key(self) -> str:
        """By which the stack is known in the window."""
        return self.source.key

    @property
    def stack(self) -> Stack:
        """The EM."""
        return self.source.stack

    @property
    def excluded(self) -> frozenset[int]:
        """Sections that nothing is learnt from."""
        return self.source.excluded

    def regions(self) -> tuple[Region, ...]:
        """Return what is reviewed."""
        return self.reviewed

    def read(self, invert: Invert) -> Generator[Record, None, TrainingSet]:
        """Read corrections, locked cells, and what is shown where it was reviewed."""
        from napari_emseg.training.corrections import TrainingSet, should_invert
        from napari_emseg.training.sparse_labels import SparseIds, SparseLabels

        z, y, x = self.stack.shape
        opinions, ids = SparseLabels((z, y, x)), SparseIds((z, y, x))
        partly, known = set[Region](), ProofreadCells.of(self.source)
        told = {} if known is None else known.squares_told()
        for k in range(z):
            codes, gaps = (None, []) if k in self.excluded else self._codes(k)
            if codes is not None and codes.any():
                whole = Region.whole(k, (y, x))
                opinions.put(whole, codes)
                partly.update(gaps)
                if known is not None and k in known.sections:
                    ids.put(whole, _ids_through(_of_runs(known, k), codes))
            elif known is not None and k in told:
                cells = _of_runs(known, k)
                for part in told[k]:
                    ids.put(part, _ids_where_known(cells[part.area]))
            yield Progress("reading corrections", k + 1, z)
        bright = should_invert(self.stack, invert)
        return TrainingSet(
            self.stack,
            opinions,
            self.reviewed,
            self.excluded,
            bright,
            frozenset(partly),
            ids=ids if ids.sections else None,
            through=tuple(part for parts in told.values() for part in parts),
        )

    def told(self) -> int:
        """Count merges and splits in 3-D that say how cells go on; reads sections."""
        known = ProofreadCells.of(self.source)
        return 0 if known is None else len(known.told)

    def _codes(self, z: int) -> tuple[NDArray[np.uint8], list[Region]]:
        """Return what is known of a section `(y, x)`, and regions with open walls."""
        results = self.source.results
        if not self.source.editor.begun:
            return np.zeros(results.shape[1:], np.uint8), []
        codes = np.array(results.corrections[z])
        if self.locked:
            _add_locked(codes, results.cells[z], results.membranes[z], self.locked)
        here = [region for region in self.reviewed if region.z == z]
        return codes, [r for r in here if _add_shown(codes, r, results)]


@dataclass(frozen=True, eq=False)
class ImportedLabels:
    """Existing annotations of a stack.

    Parameters
    ----------
    key, of
        Which they are among all, e.g. the id of their layer, and of which source.
    sparse
        What has no label is unknown; otherwise a section with any label counts whole.
    """

    key: str
    of: str
    stack: Stack
    labels: Stack
    meaning: LabelMeaning
    excluded: frozenset[int] = frozenset()
    sparse: bool = False

    @property
    def source_key(self) -> str:
        """By which the stack is known in the window."""
        return self.of

    @property
    def strokes(self) -> bool:
        """True if only what is labelled counts."""
        return self.sparse or self.meaning == "corrections"

    def labelled(self) -> Labelled:
        """Return how much is labelled; reads all sections."""
        meaning: Meaning = "cells" if self.meaning == "corrections" else self.meaning
        return Labelled.of(self.labels.data, meaning)

    def regions(self) -> tuple[Region, ...]:
        """Return sections with any label; of strokes none is drawn to its end."""
        meaning = self.meaning
        if self.sparse or meaning == "corrections":
            return ()
        n, y, x = self.labels.shape
        drawn = (z for z in range(n) if is_drawn(self.labels.section(z), meaning))
        return tuple(Region.whole(z, (y, x)) for z in drawn)

    def read(self, invert: Invert) -> Generator[Record, None, TrainingSet]:
        """Read the labels.

        Raises
        ------
        ValueError
            If they don't have the shape of the stack, or are empty.
        """
        from napari_emseg.training.corrections import training_set

        yield Progress("reading labels", 0, 1)
        known = training_set(
            self.stack,
            self.labels.data,
            self.meaning,
            invert=invert,
            extent="sparse" if self.sparse else "complete",
        )
        for note in known.notes:
            yield Note(f"{self.labels.name}: {note}")
        yield Progress("reading labels", 1, 1)
        return replace(known, excluded=self.excluded)


def corrected(source: StackState, since: datetime | None = None) -> int:
    """Count corrections by hand; `since` a moment, or all."""
    return sum(since is None or c.time > since for c in _corrections(source))


def _corrections(source: StackState) -> list[Correction]:
    """Return what a person has corrected."""
    if not source.editor.begun:
        return []
    made = source.editor.history.corrections()
    return [c for c in made if c.areas and c.what not in BY_ITSELF]


class CorrectionCounter:
    """How many pixels of each section a person has an opinion of.

    Sections are counted again when they changed; `count` may run in any thread.
    """

    def __init__(self, editor: AnnotationEditor) -> None:
        self.editor = editor
        self._dirty = set(range(editor.results.shape[0]))
        self._counts: dict[int, int] = {}
        editor.changed.connect(self._on_changed)

    def _on_changed(self, sections: frozenset[int]) -> None:
        self._dirty |= sections

    def count(self) -> dict[int, int]:
        """Return pixels by section, of those that have any."""
        for z in _emptied(self._dirty):
            self._counts[z] = int(np.count_nonzero(self.editor.corrections[z]))
        return {z: n for z, n in self._counts.items() if n}


def _emptied(waiting: set[int]) -> Iterator[int]:
    """Take elements out one by one; others may be put in meanwhile."""
    while waiting:
        yield waiting.pop()


def _add_shown(codes: NDArray[np.uint8], region: Region, results: Results) -> bool:
    """Take what is shown in a region for right where nobody corrected it.

    Returns if some of it stays unknown, see `taken_as_shown`.
    """
    from napari_emseg.training.corrections import taken_as_shown

    membranes = results.membranes[region.z][region.area] > 0
    part, cells = codes[region.area], results.cells[region.z]
    if region.z not in results.predicted and not membranes.any():
        # imported cells, which say themselves where one ends
        inside = inside_mask(cells, "cells")[region.area]
        any_cell = cells[region.area].any()
        shown = np.where(inside, INSIDE, MEMBRANE) if any_cell else NO_OPINION
        part[...] = np.where(part == NO_OPINION, shown, part)
        return False
    shown = np.where(membranes, MEMBRANE, INSIDE).astype(np.uint8)
    if region.z in results.predicted:
        unknown = results.unknown(region.z)
        if unknown is not None:
            shown[unknown[region.area]] = NO_OPINION
    part[...], gaps = taken_as_shown(part, shown)
    return gaps


def _add_locked(
    codes: NDArray[np.uint8],
    cells: NDArray[np.uint32],
    membranes: NDArray[np.uint8],
    locked: Sequence[int] | frozenset[int],
) -> None:
    """Take locked cells for inside, and membrane around them for membrane.

    Where they touch other cells that is membrane, too.
    """
    cell = np.isin(cells, np.fromiter(locked, cells.dtype))
    if not cell.any():
        return
    border = touching(cells)
    beside = ndi.binary_dilation(cell) & border
    near = ndi.binary_dilation(cell, iterations=WALL) & ~cell & (membranes > 0)
    free = codes == NO_OPINION
    codes[cell & free] = INSIDE
    codes[(near | beside) & free] = MEMBRANE


def _of_runs(known: ProofreadCells, z: int) -> NDArray[np.int64]:
    """Return known ids of a section `(y, x)`, with the runs that gave them."""
    from napari_emseg.training.sparse_labels import RUN

    cells = known[z]
    return np.where(cells > 0, cells + RUN * known.runs(z), 0)


def _ids_through(
    cells: NDArray[np.int64], codes: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Return ids of known cells `(y, x)`, 0 on known membrane, -1 elsewhere."""
    return np.where(codes == MEMBRANE, 0, _ids_where_known(cells))


def _ids_where_known(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(cells > 0, cells, -1)


class InsideOf:
    """Whole sections of a set as masks of inside `(z, y, x)`, for `train_weights`.

    1 is inside, 0 membrane, -1 where nothing is known.
    """

    def __init__(self, known: TrainingSet) -> None:
        self._known = known
        self.shape = known.stack.shape
        self.dtype = np.dtype(np.int8)

    def __getitem__(self, key: Any, /) -> NDArray[np.int8]:
        codes = self._known.opinions.window(Region.whole(int(key), self.shape[1:]))
        inside = np.where(codes == MEMBRANE, 0, 1)
        return np.where(codes == NO_OPINION, -1, inside).astype(np.int8)


class CellsOf:
    """Whole sections of a set as ids of cells through the stack `(z, y, x)`.

    0 is membrane, -1 where nothing is known.
    """

    def __init__(self, known: TrainingSet) -> None:
        self._known = known
        self.shape = known.stack.shape
        self.dtype = np.dtype(np.int64)

    def __getitem__(self, key: Any, /) -> NDArray[np.int64]:
        whole = Region.whole(int(key), self.shape[1:])
        from napari_emseg.training.sparse_labels import RUN

        codes, ids = self._known.opinions.window(whole), self._known.ids
        cells = np.zeros(whole.shape, np.int64) if ids is None else ids.window(whole)
        return _ids_through(np.where(cells > 0, cells % RUN, cells), codes)

    def are_together(self, first: int, second: int) -> bool:
        """Tell if different ids in two sections are different cells."""
        ids = self._known.ids
        return ids is not None and ids.are_together(first, second)


def as_labels(known: TrainingSet, *, through: bool = False) -> Stack:
    """Return a set as a stack of masks of inside, or of cells `through` the stack."""
    labels: LazyArray = CellsOf(known) if through else InsideOf(known)
    return Stack(labels, name=f"labels of {known.stack.name}")
