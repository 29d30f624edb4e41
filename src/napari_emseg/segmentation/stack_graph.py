"""Fragments of all sections in one graph: boundaries within, and overlaps between them.

For sections that are thick beside their pixels. Fragments are those of each section;
whether two are one cell is decided for all of the stack at once, so what a section
shows badly its neighbours can mend. How sure each edge is of joining is said by a
small classifier (`EdgeClassifier`) of what is measured there (`edge_features`), or by
the membrane alone.
"""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_emseg.core.records import Progress, Record
from napari_emseg.core.regions import Constraint, Voxel
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.affinities import Affinities, Faces
from napari_emseg.segmentation.constraints import NodeConstraints, pairs_of
from napari_emseg.segmentation.edge_classifier import EdgeClassifier
from napari_emseg.segmentation.edge_features import (
    CrossEdges,
    SectionGraph,
    edges_between,
    edges_within,
    shift_of,
)
from napari_emseg.segmentation.fragments import (
    find_fragments,
    joined,
    strength_of,
)
from napari_emseg.segmentation.linker import BRIDGE
from napari_emseg.segmentation.linking import scratch
from napari_emseg.segmentation.rag import (
    BoundaryPixels,
    MergeTree,
    RegionGraph,
    boundary_pixels,
)
from napari_emseg.segmentation.volume import renumber

NEUTRAL = CellSettings.model_fields["join"].default
"""The merge threshold at which an edge of even odds neither joins nor parts."""

WEIGHT = 0.5
"""Of what affinities say about edges between sections, beside what is seen there."""

PER_LOGIT = 0.05
"""Of strength, for each unit of log-odds; odds beyond 1 : 1000 count as such."""

MOST_LOGIT = 7.0


def strength_of_odds(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return strength on the scale of `CellSettings.join`: even odds are `NEUTRAL`."""
    odds = np.clip(log_odds, -MOST_LOGIT, MOST_LOGIT)
    strength: NDArray[np.float64] = NEUTRAL - PER_LOGIT * odds
    return strength


Odds = NDArray[np.float64]
"""Log-odds of edges."""

Between = tuple[int, int, NDArray[np.int64], Odds]
"""Edges of two sections: which, `(m, 2)` fragments, log-odds."""


def in_one_graph(
    sections: Sequence[RegionGraph],
    within: Sequence[Odds],
    between: Sequence[Between],
) -> tuple[RegionGraph, NDArray[np.int64]]:
    """Return the graph of all sections' fragments, and the first node of each.

    Parameters
    ----------
    within
        Log-odds of the edges of each section.
    between
        Of two sections each: which, `(m, 2)` fragments, log-odds.
    """
    counts = [len(graph.sizes) - 1 for graph in sections]
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    ends = [g.edges + first[z] for z, g in enumerate(sections)]
    ends += [pair + first[[z, later]] for z, later, pair, _ in between]
    edges = np.concatenate([np.zeros((0, 2), np.int64), *ends])
    odds = np.concatenate([np.zeros(0), *within, *(each[3] for each in between)])
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges, odds = edges[order], odds[order]
    sizes = np.concatenate([[0], *(g.sizes[1:] for g in sections)]).astype(np.int64)
    n, m = len(sizes), len(edges)
    strength = strength_of_odds(odds)
    graph = RegionGraph(sizes, np.ones(n), edges, strength, np.ones(m), np.zeros(m))
    return graph, first


class StackGraph:
    """Takes sections one after the other and gives the graph of all of them.

    Holds two sections, and of the others their edges.

    Parameters
    ----------
    classifier
        Says how likely edges join; membrane and size alone do if there is none.
    largest_shift
        Sections may be displaced against each other by so much, px.
    """

    def __init__(self, classifier: EdgeClassifier | None, largest_shift: int) -> None:
        self._classifier = classifier
        self._largest = largest_shift
        self._regions: list[RegionGraph] = []
        self._within: list[Odds] = []
        self._between: list[Between] = []
        # the last section, and its edges with the one before
        self._last: SectionGraph | None = None
        self._before: tuple[SectionGraph, CrossEdges] | None = None

    def add(self, section: SectionGraph, *, near: bool = True) -> None:
        """Take the next section.

        Parameters
        ----------
        near
            It may go on what the last one shows.
        """
        last, cross = self._last, None
        if last is not None and near:
            shift = shift_of(last, section, self._largest)
            faces = None if section.faces is None else section.faces[0]
            cross = edges_between(last, section, shift, faces)
            at = len(self._regions)
            odds = self.odds_between(cross)
            self._between.append((at - 1, at, cross.ends, odds))
        if last is not None:
            after = None if cross is None else (section, cross)
            self._within.append(self.odds_within(last, self._before, after))
        self._before = None if last is None or cross is None else (last, cross)
        self._last = section
        self._regions.append(section.fragments.regions)

    def finish(self) -> tuple[RegionGraph, NDArray[np.int64]]:
        """Return the graph, and the first node of each section."""
        return in_one_graph(*self.parts())

    def parts(self) -> tuple[list[RegionGraph], list[Odds], list[Between]]:
        """Return what `in_one_graph` takes, when all sections were added.

        Of a section it depends on the one before and the one behind it alone.
        """
        if self._last is not None:
            self._within.append(self.odds_within(self._last, self._before, None))
            self._last = None
        return self._regions, self._within, self._between

    def odds_within(
        self,
        section: SectionGraph,
        before: tuple[SectionGraph, CrossEdges] | None,
        after: tuple[SectionGraph, CrossEdges] | None,
    ) -> NDArray[np.float64]:
        """Log-odds of the boundaries of a section."""
        regions = section.fragments.regions
        if self._classifier is None:
            size = regions.length / max(
                float(regions.length.sum()) / max(len(regions.length), 1), 1.0
            )
            return np.asarray(size * (_logit(NEUTRAL) - _logit(regions.strength)))
        found = edges_within(section, before, after)
        return self._classifier.log_odds("within", found)

    def odds_between(self, cross: CrossEdges) -> NDArray[np.float64]:
        """Log-odds of edges between two sections."""
        if self._classifier is None:
            size = cross.shared / max(
                float(cross.shared.sum()) / max(len(cross.shared), 1), 1.0
            )
            seen = np.asarray(size * -_logit(cross.membrane))
            said = size * -_logit(cross.boundary)
        else:
            seen = self._classifier.log_odds("between", cross.features)
            unknown = np.isnan(cross.boundary).all()
            if unknown or self._classifier.knows_affinities("between"):
                return seen
            said = -_logit(cross.boundary)
        # two opinions of one edge, that of what is seen in sections and the network's
        both = (1 - WEIGHT) * seen + WEIGHT * said
        return np.where(np.isnan(said), seen, both)


def _logit(p: Any) -> Any:
    p = np.clip(p, 1e-3, 1 - 1e-3)
    return np.log(p / (1 - p))


def iter_segment_graph(
    membrane: NDArray[np.float32],
    settings: CellSettings,
    *,
    absent: Collection[int] = (),
    classifier: EdgeClassifier | None = None,
    affinities: Affinities | None = None,
    constraints: Sequence[Constraint] = (),
) -> Generator[Record, None, NDArray[np.uint32]]:
    """Find cells by one graph of all sections; return ids `(z, y, x)` 1, 2, … on disk.

    Two sections are held in memory, and of the others their edges. Yields Progress.

    Parameters
    ----------
    membrane
        Probabilities `(z, y, x)`, NaN where there is no picture. It may be on disk.
    absent
        Sections without a picture: edges go from the one before to the one behind.
    classifier
        Of edges; membrane and size alone count if there is none.
    affinities
        Those along z count for edges between sections.
    constraints
        What a person said of places.
    """
    n = len(membrane)
    labels, reach = scratch(membrane.shape), scratch(membrane.shape, np.uint8)
    graph, there = (
        StackGraph(classifier, settings.shift),
        sorted({*range(n)} - {*absent}),
    )
    for z, last in zip(there, [-n, *there], strict=False):
        exclude = np.isnan(membrane[z])
        values = np.where(exclude, np.float32(0), membrane[z])
        faces = faces_of(affinities, last, z)
        section = SectionGraph.of(values, settings.threshold, exclude, faces)
        labels[z], reach[z] = section.fragments.labels, section.fragments.reach
        graph.add(section, near=z - last <= BRIDGE + 1)
        yield Progress("fragments", z + 1, n)
    nodes, first = graph.finish()
    # fragments are numbered anew in each section
    before = dict(zip(there, first, strict=False))
    pairs = [
        (_node(labels, c.first, before), _node(labels, c.second, before), c.same)
        for c in constraints
    ]
    ids = joined(nodes, settings, said=NodeConstraints.of(pairs))
    for place, z in enumerate(there):
        own = ids_of_section(ids, first, place)
        far = reach[z] > settings.grow
        labels[z] = paint_section(labels[z], far, membrane[z], own, settings.threshold)
        yield Progress("cells", z + 1, n)
    return renumber(labels, int(ids.max(initial=0)))


def ids_of_section(
    ids: NDArray[np.int64], first: NDArray[np.int64], place: int
) -> NDArray[np.int64]:
    """Return the ids of a section's fragments, 0 for none, by those of all nodes."""
    own = np.zeros(first[place + 1] - first[place] + 1, np.int64)
    own[1:] = ids[first[place] + 1 : first[place + 1] + 1]
    return own


def paint_section(
    labels: NDArray[np.uint32],
    far: NDArray[np.bool_],
    membrane: NDArray[np.float32],
    ids: NDArray[np.int64],
    threshold: float,
) -> NDArray[np.uint32]:
    """Return the cells `(y, x)` of a section, if fragments are of cells `ids`.

    Parameters
    ----------
    far
        Where no cell reaches.
    membrane
        Probabilities, NaN where there is no picture.
    """
    strength = strength_of(np.nan_to_num(membrane), threshold)
    found = ids[labels].astype(np.uint32)
    found[far] = 0
    found.ravel()[boundary_pixels(labels, strength).between(ids)] = 0
    return found


def _node(labels: NDArray[np.uint32], at: Voxel, first: dict[int, Any]) -> int:
    """Return the node of a voxel, 0 where no fragment is."""
    label = int(labels[at])
    return label + int(first[at[0]]) if label and at[0] in first else 0


def faces_of(affinities: Affinities | None, last: int, z: int) -> Faces | None:
    """Return faces of section `z`; along z only if `last` is the one before it."""
    if affinities is None:
        return None
    before, *others = (each[0] for each in affinities.sections(z, z + 1))
    if z - last != 1:
        before = np.full_like(before, np.nan)
    return before, *others


@dataclass(frozen=True, slots=True, eq=False)
class StackFragments:
    """The fragments of a stack that is held in memory, to be joined again and again.

    Made once from probabilities and a threshold; by other settings `joined` takes
    milliseconds, and so does each `section`. Takes 5 bytes for each voxel.

    Parameters
    ----------
    labels
        `(z, y, x)` fragments, as nodes of the graph; 0 for none.
    reach
        uint8, distance to the next place inside, px.
    regions, tree
        The graph, and the order in which agglomeration joins it.
    seams
        Of each section; none of a volume, whose cells touch.
    said
        What a person said of them.
    """

    labels: NDArray[np.uint32]
    reach: NDArray[np.uint8]
    regions: RegionGraph
    tree: MergeTree
    seams: tuple[BoundaryPixels, ...]
    said: NodeConstraints | None = None

    def joined(self, settings: CellSettings) -> NDArray[np.int64]:
        """Map `(n + 1,)` from fragments to cells; 0 for what is no cell."""
        return joined(self.regions, settings, self.tree, self.said)

    def section(
        self, z: int, ids: NDArray[np.int64], settings: CellSettings
    ) -> NDArray[np.uint32]:
        """Return the cells `(y, x)` of a section, if fragments are of cells `ids`."""
        found: NDArray[np.uint32] = np.take(ids.astype(np.uint32), self.labels[z])
        found[self.reach[z] > settings.grow] = 0
        if self.seams:
            found.ravel()[self.seams[z].between(ids)] = 0
        return found


def iter_find_stack_fragments(
    membrane: NDArray[np.float32],
    settings: CellSettings,
    *,
    absent: Collection[int] = (),
    classifier: EdgeClassifier | None = None,
    affinities: Affinities | None = None,
    constraints: Sequence[Constraint] = (),
) -> Generator[Record, None, StackFragments]:
    """Find what `iter_segment_volume`, or `iter_segment_graph`, would join.

    Which of both is said by `settings.through`. Parameters as there.
    """
    labels = np.zeros(membrane.shape, np.uint32)
    reach = np.zeros(membrane.shape, np.uint8)
    n, last, count = len(membrane), -len(membrane), 0
    exclude = np.isnan(membrane)
    values = np.where(exclude, np.float32(0), membrane)
    if settings.through == "3-d":
        yield Progress("fragments", 0, 1)
        faces = None
        if affinities is not None:
            faces = affinities.volume(n, absent)
        whole = find_fragments(
            values,
            settings.threshold,
            exclude=exclude,
            faces=faces,
            constraints=constraints,
        )
        labels, reach = whole.labels, whole.reach
        regions, said = whole.regions, whole.said
    else:
        graph = StackGraph(classifier, settings.shift)
        for z in sorted({*range(n)} - {*absent}):
            own = faces_of(affinities, last, z)
            section = SectionGraph.of(values[z], settings.threshold, exclude[z], own)
            found = section.fragments.labels
            labels[z] = np.where(found > 0, found + np.uint32(count), 0)
            reach[z] = section.fragments.reach
            graph.add(section, near=z - last <= BRIDGE + 1)
            count, last = count + section.n - 1, z
            yield Progress("fragments", z + 1, n)
        regions, _ = graph.finish()
        said = NodeConstraints.of(pairs_of(labels, constraints))
    seams = tuple(
        boundary_pixels(section, strength_of(p, settings.threshold))
        for section, p in zip(labels, values, strict=True)
        if settings.through != "3-d"
    )
    return StackFragments(labels, reach, regions, MergeTree.of(regions), seams, said)
