"""Cells that a person is done with, in a window → a better classifier of edges.

See `training/edges.py` for how it learns, and `segmentation/stack_graph.py` for what
it says of fragments.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.intensity import padding
from napari_emseg.core.records import Record
from napari_emseg.core.regions import Area, Constraint, Region, Voxel
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.edge_classifier import EdgeClassifier
from napari_emseg.session.results import PredictedProbabilities, Results
from napari_emseg.session.stack_state import StackState

if TYPE_CHECKING:
    from napari_emseg.proofreading import LinkedLabels
    from napari_emseg.segmentation.affinities import Affinities

REACH = 32
"""So far from its places a merge or split in 3-D tells how the cells go on, px."""

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
    split through the stack; in sections through which an id is one cell. One id is one
    cell; two ids are two cells only where one run found both, or a person split them.

    Parameters
    ----------
    regions
        Reviewed areas by section.
    cells
        Ids that are known wherever they are.
    merged
        Ids that a person gave to more than one cell of a run.
    apart
        A section, an id in the one before, and one in it: split by a person.
    """

    linked: LinkedLabels
    results: Results
    sections: frozenset[int]
    regions: dict[int, tuple[Area, ...]]
    cells: frozenset[int]
    merged: frozenset[int]
    apart: frozenset[tuple[int, int, int]]
    _stretches: list[int] = field(default_factory=list)
    _latest: list[NDArray[np.uint32]] = field(default_factory=list)
    _numbers: dict[tuple[int, int], int] = field(default_factory=dict)

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
        at = _ids_at(linked, linked.constraints)
        cells = linked.locked | (frozenset(at.values()) - {0})
        if not sections or not (regions or cells):
            return None
        merges = [c for c in linked.constraints if c.same]
        return cls(
            linked,
            source.results,
            sections - source.excluded,
            regions,
            frozenset(cells),
            frozenset(at[v] for c in merges for v in (c.first, c.second)),
            _apart(linked.constraints, at),
        )

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

    def runs(self, z: int) -> NDArray[np.int64]:
        """Return what found the cells of section `z` `(y, x)` together, from 0.

        Sections between which no id goes on were not found together: there is no tissue
        in which all cells end. Where runs aren't known, that tells them apart.
        """
        runs, stretch = self.results.run_at(z), self._stretch(z)
        known, place = np.unique(runs, return_inverse=True)
        numbers = self._numbers
        found = [numbers.setdefault((int(r), stretch), len(numbers)) for r in known]
        return np.array(found, np.int64)[place].reshape(runs.shape)

    def _stretch(self, z: int) -> int:
        """Return the number of the stretch in which ids go on, but for merged ones."""
        while len(self._stretches) <= z:
            at, number = len(self._stretches), max(self._stretches[-1:], default=0)
            ids = np.zeros(0, np.uint32)
            if at in self.sections:
                ids = _ids_in(self.linked.up_to_date(at))
                ids = np.setdiff1d(ids, np.fromiter({0, *self.merged}, ids.dtype))
            if ids.size:
                if self._latest and not np.isin(ids, self._latest[-1]).any():
                    number += 1
                self._latest[:] = [ids]
            self._stretches.append(number)
        return self._stretches[z]

    @property
    def told(self) -> tuple[Constraint, ...]:
        """Merges and splits in 3-D that cells still keep."""
        said = self.linked.constraints
        at = {
            v: i for v, i in _ids_at(self.linked, said).items() if v[0] in self.sections
        }
        return tuple(
            c
            for c in said
            if at.get(c.first)
            and at.get(c.second)
            and (at[c.first] == at[c.second]) == c.same
        )

    def squares_told(self) -> dict[int, tuple[Region, ...]]:
        """Return where merges and splits in 3-D say how cells go on, by section.

        Around their places, and as far in the sections beside these.
        """
        from napari_emseg.training.sparse_labels import squares_around

        places = {
            (z, y, x)
            for said in self.told
            for at, y, x in (said.first, said.second)
            for z in (at - 1, at, at + 1)
            if z in self.sections
        }
        found: dict[int, dict[Region, None]] = {}
        for z, y, x in sorted(places):
            near = squares_around(z, y, x, REACH, self.shape)
            found.setdefault(z, {}).update(dict.fromkeys(near))
        return {z: tuple(squares) for z, squares in found.items()}

    def is_near(self, z: int) -> bool:
        """Tell if something may be known of a section, or of one beside it."""
        if self.cells:
            return z in self.sections
        return any(k in self.regions for k in (z - 1, z, z + 1))


def _ids_in(cells: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the ids of a section, ascending; quickly where they are small."""
    if cells.max(initial=0) < cells.size:
        return np.flatnonzero(np.bincount(cells.ravel())).astype(np.uint32)
    return np.unique(cells)


def _ids_at(linked: LinkedLabels, said: Sequence[Constraint]) -> dict[Voxel, int]:
    """Return the id at each place of which a person said something."""
    voxels = {v for c in said for v in (c.first, c.second)}
    found: dict[Voxel, int] = {}
    for z in {voxel[0] for voxel in voxels}:
        cells = linked.up_to_date(z)
        found |= {v: int(cells[v[1:]]) for v in voxels if v[0] == z}
    return found


def _apart(
    said: Sequence[Constraint], at: dict[Voxel, int]
) -> frozenset[tuple[int, int, int]]:
    pairs = [sorted((c.first, c.second)) for c in said if not c.same]
    return frozenset(
        (after[0], at[before], at[after])
        for before, after in pairs
        if after[0] == before[0] + 1 and at[before] != at[after]
    )


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
        Learns on; None to begin from nothing.

    Raises
    ------
    ValueError
        At once, if nothing is known of cells through the stack; at work, if that is
        too little.
    """
    known = _known(source)
    if not source.is_probabilities:
        there = source.results.predicted
        if not any(known.is_near(z) for z in there):
            raise ValueError(NO_MEMBRANES)
    return _learning(source, known, settings, start)


def sections_to_predict(source: StackState) -> tuple[int, ...]:
    """Return sections without probabilities that learning would look at.

    Those with known cells, and their neighbours: a project doesn't keep probabilities.

    Raises
    ------
    ValueError
        If nothing is known of cells through the stack.
    """
    known = _known(source)
    if source.is_probabilities:
        return ()
    told = [z for z in sorted(known.sections) if known[z].any()]
    near = {k for z in told for k in (z - 1, z, z + 1) if 0 <= k < known.shape[0]}
    there = {*source.results.predicted, *source.excluded}
    return tuple(z for z in sorted(near - there) if known.is_near(z))


def _known(source: StackState) -> ProofreadCells:
    if source.results.segmented and not source.results.linked_sections:
        raise ValueError(NOT_LINKED)
    known = ProofreadCells.of(source)
    if known is None:
        raise ValueError(NOTHING_KNOWN)
    return known


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
        origin=known,
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
