"""Membrane probabilities → fragments: pieces of cells that are never cut further."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from napari_emseg.core.regions import Constraint
from napari_emseg.core.requirements import (
    GaspClusterPolicy,
    KernighanLinMulticut,
    MulticutObjective,
    UndirectedGraph,
    distance_transform,
    gaussian_smoothing,
    label,
    relabel_sequential,
)
from napari_emseg.core.settings import CellSettings
from napari_emseg.segmentation.affinities import Faces
from napari_emseg.segmentation.constraints import (
    NodeConstraints,
    cut_fragments,
    pairs_of,
)
from napari_emseg.segmentation.rag import (
    BoundaryPixels,
    EdgeFeatures,
    MergeTree,
    RegionGraph,
    boundary_pixels,
    depths_of,
    drop_small,
    join_small,
    regions_of,
)


def partition(
    regions: RegionGraph, method: Literal["multicut", "mutex-watershed"], join: float
) -> NDArray[np.int64]:
    """Map `(n,)` of regions to numbers of what they are part of, 0 to itself.

    A boundary attracts by how far its strength is below `join`, and repels by how far
    it is above. `multicut` finds the partition with the smallest sum of what is
    cut, weighted by length: greedy contraction, mended by Kernighan and Lin's moves
    (Keuper et al. 2015). `mutex-watershed` takes boundaries by strength, joins where
    one attracts, and keeps apart for good what one repels (Wolf et al. 2018, on the
    graph of regions).

    Parameters
    ----------
    join
        Strength that neither attracts nor repels.
    """
    n = len(regions.sizes)
    if len(regions.edges) == 0:
        return np.arange(n)
    graph = UndirectedGraph.from_unique_edges(n, regions.edges.astype(np.uint64))
    # positive weights attract and negative ones repel, as both solvers expect
    weights = join - regions.strength
    if method == "multicut":
        problem = MulticutObjective(graph, weights * regions.length)
        found = KernighanLinMulticut().optimize(problem)
    else:
        policy = GaspClusterPolicy(linkage="mutex_watershed")
        found = policy.optimize(graph, weights)
    return _by_first(np.asarray(found))


def _by_first(parts: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return parts numbered by their first regions; that of region 0 is 0."""
    _, first, which = np.unique(parts, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which].astype(np.int64)


SEED_SIGMA = 2.0
"""Seeds are maxima of the distance to membranes smoothed by this much, px."""

RIDGE_SIGMA = 1.0
"""Fragments meet on the ridge of probabilities smoothed by this much, px."""

BROAD = 6
"""Membrane farther from the next place inside tells nothing about a boundary, px."""

FARTHEST = 255
"""Distances to the next place inside are kept up to here, px."""


@dataclass(frozen=True, slots=True, eq=False)
class Fragments:
    """The fragments of a section or volume and all it takes to make cells of them.

    Made once from probabilities and a threshold. Every other setting only chooses which
    fragments are one cell and how far it reaches: `cells` takes a few milliseconds, so
    that a slider can be followed live. Takes 6 bytes for each pixel.

    Parameters
    ----------
    labels
        `(y, x)` or `(z, y, x)` ids 1 … n, 0 where there is no picture.
    reach
        uint8, distance to the next place inside, px, rounded up; 0 inside.
    regions
        The fragments' sizes, neighbours and boundaries; their `strength` is on the
        scale of `CellSettings.join`.
    tree
        The order in which agglomeration joins them.
    seams
        Pixels that part two fragments if they are different cells; none in a volume,
        where a boundary is a face between voxels and takes none of them away.
    said
        What a person said of them.
    """

    labels: NDArray[np.uint32]
    reach: NDArray[np.uint8]
    regions: RegionGraph
    tree: MergeTree
    seams: BoundaryPixels
    said: NodeConstraints | None = None

    def cells(self, settings: CellSettings) -> NDArray[np.uint32]:
        """Return cells: ids 1, 2, …, 0 between them; in a section none touch."""
        ids = self.joined(settings)
        # `reach` empties broad membranes; in thin ones cells would still meet, so the
        # pixels of `seams` between two of them become 0 as well
        found = np.take(ids.astype(np.uint32), self.labels)
        found[self.reach > settings.grow] = 0
        found.ravel()[self.seams.between(ids)] = 0
        cells: NDArray[np.uint32] = relabel_sequential(found)[0]
        return cells

    def joined(self, settings: CellSettings) -> NDArray[np.int64]:
        """Map `(n + 1,)` from fragments to cells; 0 for what is no cell."""
        return joined(self.regions, settings, self.tree, self.said)


def joined(
    regions: RegionGraph,
    settings: CellSettings,
    tree: MergeTree | None = None,
    said: NodeConstraints | None = None,
) -> NDArray[np.int64]:
    """Map `(n + 1,)` from fragments to cells; 0 for what is no cell.

    Parameters
    ----------
    tree
        Of the regions, if it is known already.
    said
        What a person said of them.
    """
    if settings.method == "agglomeration":
        into = (tree or MergeTree.of(regions)).cut(settings.join)
    else:
        into = partition(regions, settings.method, settings.join)
    join = join_small if settings.small == "merge" else drop_small
    if said is None:
        return join(regions.merged(into), settings.minimum_size)[into]
    into = said.obeyed(regions, into)
    parts = said.protect(regions.merged(into), into, settings.minimum_size)
    found: NDArray[np.int64] = join(parts, settings.minimum_size)[into]
    return found


def find_fragments(
    membrane: NDArray[np.float32],
    threshold: float,
    *,
    exclude: NDArray[np.bool_] | None = None,
    faces: Faces | None = None,
    constraints: Sequence[Constraint] = (),
) -> Fragments:
    """Find the fragments of a section, or of a volume of about isotropic voxels.

    Parameters
    ----------
    membrane
        Probabilities `(y, x)` or `(z, y, x)` in [0, 1], float32, no NaN.
    threshold
        Above it a pixel is membrane. Fragments are the basins around the places that
        are farthest from membranes.
    exclude
        Where there is no picture: no fragments there.
    faces
        How sure a boundary is between voxels, by axis, from affinities. Where they are
        known they count as much as membranes.
    constraints
        What a person said of places of a volume.
    """
    strong = None
    if faces is not None:
        strong = face_strengths(membrane, faces, threshold)
        membrane = boundary_map(membrane, faces)
    inside = membrane <= threshold
    if exclude is not None:
        inside &= ~exclude
        # smoothing looks beyond the border of the picture: no ridge may come from there
        membrane = np.where(exclude, np.float32(0), membrane)
    strength = strength_of(membrane, threshold)
    depth = distance_transform(inside)
    labels = flood(strength, seeds(depth), exclude)
    cut_fragments(labels, constraints)
    reach = reach_of(inside)
    seams = boundary_pixels(labels, strength)
    sizes = np.bincount(labels[inside], minlength=int(labels.max()) + 1)
    strengths = EdgeFeatures.along(seams, strength, reach <= BROAD, depth, strong)
    depths = depths_of(labels, depth)
    regions = regions_of(sizes, depths, seams.ends, strengths, labels.ndim)
    # lines would take 5 % of FIB-SEM of fly neuropil away, whose true cells have none
    # (Takemura et al. 2015)
    lines = seams if labels.ndim == 2 else seams.without_pixels()
    said = NodeConstraints.of(pairs_of(labels, constraints))
    return Fragments(labels, reach, regions, MergeTree.of(regions), lines, said)


SURE = 0.15
"""So sure of a boundary affinities must be to count as membrane at the threshold.

Chosen on sections 225-249 of fib25, with a small network that learnt for three minutes
on 150-224. Where affinities are wrong, they miss boundaries rather than see too many.
"""


def boundary_map(membrane: NDArray[np.float32], faces: Faces) -> NDArray[np.float32]:
    """Return the mean of membrane and of what is known of a voxel's faces."""
    total = np.zeros(membrane.shape, np.float32)
    known = np.zeros(membrane.shape, np.uint8)
    for face in faces:
        there = ~np.isnan(face)
        total[there] += face[there]
        known += there
    mean = total / np.maximum(known, np.uint8(1))
    found = np.where(known > 0, (mean + membrane) / np.float32(2), membrane)
    return found.astype(np.float32)


def face_strengths(
    membrane: NDArray[np.float32], faces: Faces, threshold: float
) -> Faces:
    """Return how strong what is between each two voxels is, by axis, NaN if unknown.

    The mean of what affinities say and of the membrane, as that counts without them:
    of two voxels the stronger one.
    """
    strength, found = strength_of(membrane, threshold), []
    for axis, face in enumerate(faces):
        along = np.moveaxis(strength, axis, 0)
        higher = along.copy()
        np.maximum(along[1:], along[:-1], out=higher[1:])
        both = (np.moveaxis(higher, 0, axis) + strength_of(face, SURE)) / np.float32(2)
        found.append(both)
    return tuple(found)


def strength_of(membrane: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Put probabilities on a scale where the threshold is 1/2, by their odds.

    Networks differ in how sure of their membranes they are, and the threshold of a card
    says how much. On this scale, one setting fits them all.
    """
    # rounding may leave values a little below 0, which as uint16 of `quantise` would be
    # the highest ridges
    membrane = np.clip(membrane, 0, 1)
    for_it = membrane * np.float32(1 - threshold)
    against = (np.float32(1) - membrane) * np.float32(threshold)
    return (for_it / (for_it + against)).astype(np.float32)


def seeds(depth: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return a seed for each place that is deeper than what is around it.

    Every connected area inside has at least one: areas beside a deeper one, whose own
    maximum is drowned in smoothing, are a seed as a whole.

    Parameters
    ----------
    depth
        Distance to the nearest membrane, px; 0 on membranes.
    """
    return seeds_of(peaks_of(depth), label(depth > 0, connectivity=1))


def peaks_of(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where the smoothed distance to membranes is largest."""
    # Unsmoothed, the distance transform has a maximum for every bump of an outline. The
    # pixels of a plateau all count here; `seeds_of` joins them to one seed.
    smooth = gaussian_smoothing(depth, SEED_SIGMA)
    peaks: NDArray[np.bool_] = (smooth == maximum_filter(smooth, 5)) & (depth > 0)
    return peaks


def seeds_of(
    peaks: NDArray[np.bool_],
    areas: NDArray[np.uint64],
    seeded: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint32]:
    """Return peaks, and areas without any, as seeds that are numbered row by row.

    Parameters
    ----------
    areas
        Areas inside, connected by sides of pixels, 0 between them.
    seeded
        Which of them have a peak; those with one in `peaks` if not given.
    """
    if seeded is None:
        seeded = np.zeros(int(areas.max()) + 1, bool)
        seeded[areas[peaks]] = True
    drowned = (areas > 0) & ~seeded[areas]
    found: NDArray[np.uint32] = label(peaks | drowned, connectivity=1).astype(np.uint32)
    return found


def flood(
    membrane: NDArray[np.float32],
    markers: NDArray[np.uint32],
    exclude: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint32]:
    """Grow markers over the whole picture until they meet on membranes.

    Fragments are 0 where `exclude` is true, and all 0 without markers.
    """
    if not markers.any():
        return np.zeros(membrane.shape, np.uint32)
    from napari_emseg.segmentation.watershed import quantise, seeded_watershed

    # whole levels, so that flooding needs a queue for each and no heap
    ridges = quantise(gaussian_smoothing(membrane, RIDGE_SIGMA))
    closed = np.zeros(membrane.shape, bool) if exclude is None else exclude
    return seeded_watershed(ridges, markers, closed)


def reach_of(inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the distance to the next place inside, px, rounded up."""
    if not inside.any():
        return np.full(inside.shape, FARTHEST, np.uint8)
    distance: NDArray[np.float32] = distance_transform(~inside)
    return np.ceil(np.minimum(distance, FARTHEST)).astype(np.uint8)
