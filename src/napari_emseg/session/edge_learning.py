"""Cells that a person is done with, in a window → a better classifier of edges.

See `training/edges.py` for how it learns, and `segmentation/stack_graph.py` for what
it says of fragments.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.intensity import padding
from napari_emseg.core.records import Record
from napari_emseg.core.regions import Area, Voxel
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.edge_classifier import EdgeClassifier, default_classifier
from napari_emseg.session.results import PredictedProbabilities
from napari_emseg.session.stack_state import StackState

if TYPE_CHECKING:
    from napari_emseg.proofreading import LinkedLabels
    from napari_emseg.segmentation.affinities import Affinities

NOT_LINKED = (
    "the cells here are those of single sections, so nobody knows how they go on: find "
    "cells through the stack first, and correct these"
)
NOTHING_KNOWN = (
    "no cell is known to be right through the stack: review sections, lock cells, or "
    "merge and split cells in 3-D first. 50 edges between fragments within sections "
    "are needed, and 50 between sections, 5 of either answer"
)
NO_MEMBRANES = (
    "the sections with corrected cells have no membranes now; run 2 Membranes on them"
)


@dataclass(frozen=True, slots=True, eq=False)
class ProofreadCells:
    """Ids of cells that a person is done with, by section.

    They are the cells in reviewed regions, locked ones, and those that were merged or
    split through the stack; in sections through which an id is one cell.

    Parameters
    ----------
    regions
        Reviewed areas by section.
    cells
        Ids that are known wherever they are.
    """

    linked: LinkedLabels
    sections: frozenset[int]
    regions: dict[int, tuple[Area, ...]]
    cells: frozenset[int]

    @classmethod
    def of(cls, source: StackState) -> ProofreadCells | None:
        """Look at a stack as it is now; None if no cell of it is known so."""
        editor, sections = source.editor, source.results.linked_sections
        if not editor.begun:
            return None
        linked = editor.linked
        regions: dict[int, tuple[Area, ...]] = {}
        for region in source.reviewed_regions:
            if region.z in sections:
                regions[region.z] = (*regions.get(region.z, ()), region.area)
        said = {v for c in linked.constraints for v in (c.first, c.second)}
        cells = linked.locked | (_ids_at(linked, said) - {0})
        if not sections or not (regions or cells):
            return None
        return cls(linked, sections - source.excluded, regions, frozenset(cells))

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(z, y, x)` of the stack."""
        return self.linked.shape

    dtype = np.dtype(np.int64)

    def __getitem__(self, key: Any, /) -> NDArray[np.int64]:
        """Return the ids of section `z` `(y, x)`, 0 where nothing is known."""
        z = int(key)
        if z not in self.sections:
            return np.zeros(self.shape[1:], np.int64)
        cells = self.linked.up_to_date(z)
        known = np.isin(cells, np.fromiter(self.cells, cells.dtype))
        for area in self.regions.get(z, ()):
            known[area] = True
        return np.where(known, cells, 0).astype(np.int64)

    def is_near(self, z: int) -> bool:
        """Tell if something may be known of a section, or of one beside it."""
        if self.cells:
            return z in self.sections
        return any(k in self.regions for k in (z - 1, z, z + 1))


def _ids_at(linked: LinkedLabels, voxels: set[Voxel]) -> frozenset[int]:
    found = set[int]()
    for z in {voxel[0] for voxel in voxels}:
        cells = linked.up_to_date(z)
        found |= {int(cells[y, x]) for at, y, x in voxels if at == z}
    return frozenset(found)


@dataclass(frozen=True, slots=True, eq=False)
class _Membrane:
    """Probabilities as they were predicted, NaN where nothing is known of cells."""

    source: StackState
    known: ProofreadCells

    dtype = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(z, y, x)` of the stack."""
        return self.source.results.shape

    def __getitem__(self, key: Any, /) -> NDArray[np.float32]:
        z, source = int(key), self.source
        if not self.known.is_near(z):
            return np.full(self.shape[1:], np.nan, np.float32)
        # without corrections: a run sees most places as the network left them
        if not source.is_probabilities:
            values = PredictedProbabilities(source.results)[z]
            outside = padding(source.stack.section(z))
        else:
            values, outside = source.stack.section(z), None
            if values.dtype.kind in "iu":
                values = values / np.float32(255)
        values = np.asarray(values, np.float32)
        return values if outside is None else np.where(outside, np.nan, values)


def _affinities(source: StackState, known: ProofreadCells) -> Affinities | None:
    """Return the affinities, if all sections have them of which cells are known."""
    from napari_emseg.segmentation.affinities import Affinities

    results, sections = source.results, range(known.shape[0])
    lacking = {z for z in sections if known.is_near(z)} - results.with_affinities
    if lacking or not results.affinities:
        return None
    return Affinities.named(results.affinities, known.shape)


@dataclass(frozen=True, slots=True)
class EdgesLearnt:
    """What learning gave.

    Parameters
    ----------
    key
        Of the stack.
    right, before
        Shares of `held_out` edges that it gets right, and that the one before did.
    """

    classifier: EdgeClassifier
    key: str
    within: int
    between: int
    held_out: int
    right: float
    before: float

    @property
    def is_worse(self) -> bool:
        """True if it gets fewer held-out edges right than the one before."""
        return self.held_out > 0 and self.right < self.before

    @property
    def words(self) -> str:
        """For people."""
        learnt = (
            f"Learnt from {self.within:,} edges within sections and {self.between:,} "
            "between them."
        )
        if not self.held_out:
            return f"{learnt} All are of one section, so nothing was held out."
        verdict = "better"
        if self.right <= self.before:
            verdict = "not taken" if self.is_worse else "as good"
        return (
            f"{learnt} Of {self.held_out:,} held-out edges {self.right:.1%} are right, "
            f"{self.before:.1%} were before: {verdict}."
        )


def learn_edges(
    source: StackState, settings: CellSettings, start: EdgeClassifier | None
) -> Generator[Record, None, EdgesLearnt]:
    """Return the work of learning from what a person has done to a stack.

    Parameters
    ----------
    start
        Learns on; by default the usual one, or from nothing where that isn't there.

    Raises
    ------
    ValueError
        At once, if nothing is known of cells through the stack; at work, if that is
        too little.
    """
    if source.results.segmented and not source.results.linked_sections:
        raise ValueError(NOT_LINKED)
    known = ProofreadCells.of(source)
    if known is None:
        raise ValueError(NOTHING_KNOWN)
    if not source.is_probabilities:
        there = source.results.predicted
        if not any(known.is_near(z) for z in there):
            raise ValueError(NO_MEMBRANES)
    return _learning(source, known, settings, start or default_classifier())


def _learning(
    source: StackState,
    known: ProofreadCells,
    settings: CellSettings,
    start: EdgeClassifier | None,
) -> Generator[Record, None, EdgesLearnt]:
    from napari_emseg.training.edges import iter_learn_edges

    found = yield from iter_learn_edges(
        _Membrane(source, known),
        known,
        settings,
        affinities=_affinities(source, known),
        start=start,
        about=f"corrected cells of {source.name}",
    )
    edges, scores = found.about["edges"], found.about["scores"].values()
    n = sum(int(s["edges"]) for s in scores)
    right, before = (
        sum(s["edges"] * s[name] for s in scores) / max(n, 1)
        for name in ("right", "before")
    )
    return EdgesLearnt(
        found, source.key, edges["within"], edges["between"], n, right, before
    )
