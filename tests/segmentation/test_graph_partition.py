"""Which regions become one cell, on graphs that are drawn by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from bioimage_cpp.graph import UndirectedGraph
from bioimage_cpp.graph.agglomeration import GaspClusterPolicy
from hypothesis import given
from hypothesis import strategies as st

from napari_emseg.segmentation.fragments import partition
from napari_emseg.segmentation.rag import MergeTree, RegionGraph


def graph(n: int, *edges: tuple[int, int, float, float]) -> RegionGraph:
    """Regions 1 … n; an edge is two regions, the membrane between, and its length."""
    table = np.array(sorted(edges), float).reshape(-1, 4)
    return RegionGraph(
        sizes=np.array([0] + [500] * n),
        depths=np.full(n + 1, 5.0),
        edges=table[:, :2].astype(np.int64),
        membrane=table[:, 2],
        length=table[:, 3],
        openings=np.zeros(len(table)),
    )


def test_the_tree_joins_the_weakest_first_and_averages_boundaries() -> None:
    #  1 -.1- 2, 1 -.4- 3, 2 -.8- 3: after 1 + 2, 3 is (10 * .4 + 30 * .8) / 40 away
    tree = MergeTree.of(
        graph(3, (1, 2, 0.1, 5), (1, 3, 0.4, 10), (2, 3, 0.8, 30)),
    )
    np.testing.assert_allclose(tree.heights, [0.1, 0.7])
    assert tree.cut(0.05).tolist() == [0, 1, 2, 3]
    assert tree.cut(0.5).tolist() == [0, 1, 1, 2]
    assert tree.cut(0.71).tolist() == [0, 1, 1, 1]


def test_the_wider_a_boundary_stands_open_the_less_it_counts() -> None:
    # 3 is a bulge of 2, and 1 a large cell: what is a wide door of the bulge is but
    # a narrow one of the two together
    regions = graph(3, (1, 2, 0.8, 10), (1, 3, 0.8, 10), (2, 3, 0.8, 10))
    regions = replace(
        regions,
        depths=np.array([1.0, 40.0, 20.0, 4.0]),
        openings=np.array([0.0, 2.0, 3.0]),
    )
    np.testing.assert_allclose(regions.strength, [0.8, 0.4, 0.2])
    tree = MergeTree.of(regions)
    np.testing.assert_allclose(tree.heights, [0.2, 0.72])
    assert tree.cut(0.5).tolist() == [0, 1, 2, 2]


def test_a_boundary_as_strong_as_the_threshold_stays() -> None:
    tree = MergeTree.of(graph(2, (1, 2, 0.5, 3)))
    assert tree.cut(0.5).tolist() == [0, 1, 2]
    assert tree.cut(0.51).tolist() == [0, 1, 1]


def test_regions_without_neighbours_stay_alone() -> None:
    lone = graph(3)
    assert MergeTree.of(lone).cut(1.0).tolist() == [0, 1, 2, 3]
    assert partition(lone, "multicut", 0.9).tolist() == [0, 1, 2, 3]


def test_multicut_cuts_what_costs_least() -> None:
    # at .5 the gains are 3 (1-2), 2 (1-3) and -6 (2-3): 3 is cut off for -6 + 2
    triangle = graph(3, (1, 2, 0.2, 10), (1, 3, 0.3, 10), (2, 3, 0.9, 15))
    assert partition(triangle, "multicut", 0.5).tolist() == [0, 1, 1, 2]
    # at .8 they are 6, 5 and -1.5: no cut pays
    assert partition(triangle, "multicut", 0.8).tolist() == [0, 1, 1, 1]


def test_mutex_watershed_keeps_apart_what_the_strongest_repels() -> None:
    # 2-3 repels with .4, and is taken before 1-2 (.35) and 1-3 (.3), of which
    # the first joins and the second is then forbidden
    ring = graph(3, (1, 2, 0.15, 1), (1, 3, 0.2, 1), (2, 3, 0.9, 1))
    assert partition(ring, "mutex-watershed", 0.5).tolist() == [0, 1, 1, 2]
    assert partition(ring, "mutex-watershed", 0.95).tolist() == [0, 1, 1, 1]


@st.composite
def graphs(draw: st.DrawFn) -> RegionGraph:
    """Regions of any width, whose boundaries stand open as wide as that allows."""
    n = draw(st.integers(2, 12))
    pairs = [(a, b) for a in range(1, n + 1) for b in range(a + 1, n + 1)]
    chosen = draw(st.lists(st.sampled_from(pairs), min_size=1, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    made = graph(n, *((a, b, rng.random(), rng.integers(1, 40)) for a, b in chosen))
    depths = rng.integers(1, 9, n + 1).astype(float)
    narrower = depths[made.edges].min(axis=1)
    share = draw(st.sampled_from([0.0, 0.5, 1.0]))
    openings = np.floor(rng.random(len(narrower)) * share * (narrower + 0.99))
    return replace(made, depths=depths, openings=openings)


@given(regions=graphs(), threshold=st.floats(0.01, 0.99))
def test_a_cut_of_the_tree_is_what_stopping_there_gives(
    regions: RegionGraph, threshold: float
) -> None:
    """An implementation of others, run anew for each threshold, agrees."""
    n = len(regions.sizes)
    strength = regions.strength
    other = GaspClusterPolicy(linkage="mean").optimize(
        UndirectedGraph.from_unique_edges(n, regions.edges.astype(np.uint64)),
        np.maximum(threshold - strength, -1.0),
        edge_sizes=regions.length,
    )
    tree = MergeTree.of(regions)
    assert (np.diff(tree.heights) >= 0).all()
    ours, expected = tree.cut(threshold), stopped(regions, threshold)
    assert expected is None or same_partition(ours, expected)
    closed = not regions.openings.any()
    if closed and (np.all(strength < threshold) or np.all(strength >= threshold)):
        assert same_partition(ours, np.asarray(other))


def stopped(regions: RegionGraph, threshold: float) -> np.ndarray | None:
    """Join the weakest boundary again and again, measured anew from scratch.

    None where two boundaries of one region are equally weak: whichever is joined first,
    the region is wider then, and another partition follows.
    """
    into = np.arange(len(regions.sizes))
    while True:
        found: dict[tuple[int, int], list[float]] = {}
        for (a, b), p, length, opening in zip(
            regions.edges,
            regions.membrane,
            regions.length,
            regions.openings,
            strict=True,
        ):
            key = tuple(sorted((int(into[a]), int(into[b]))))
            if key[0] != key[1]:
                total = found.setdefault(key, [0.0, 0.0, 0.0])
                total[0] += p * length
                total[1] += length
                total[2] = max(total[2], opening)
        strengths = {}
        for (a, b), (total, length, opening) in found.items():
            width = min(regions.depths[into == part].max() for part in (a, b))
            strengths[a, b] = total / length * (1 - opening / width)
        if not strengths or min(strengths.values()) >= threshold:
            return into
        weakest = min(strengths.values())
        tied = [key for key, s in strengths.items() if s <= weakest + 1e-12]
        if len({part for key in tied for part in key}) < 2 * len(tied):
            return None
        a, b = tied[0]
        into[into == b] = a


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))
