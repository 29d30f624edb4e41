"""Agglomeration by its definition, and what it takes."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_emseg.segmentation.rag import MergeTree, RegionGraph


def graph(seed: int, n: int) -> RegionGraph:
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(1, n, (3 * n, 2)), axis=1)
    edges = np.unique(ends[ends[:, 0] < ends[:, 1]], axis=0)
    m = len(edges)
    depths = 1 + 9 * rng.random(n)
    openings = rng.random(m) * depths[edges].min(axis=1)
    length = rng.integers(1, 30, m).astype(float)
    return RegionGraph(
        np.ones(n, np.int64), depths, edges, rng.random(m), length, openings
    )


def agglomerated(regions: RegionGraph, threshold: float) -> list[int]:
    """Join the weakest boundary as long as it is weaker than that."""
    part = list(range(len(regions.sizes)))
    depths = regions.depths.tolist()
    total = regions.membrane * regions.length
    while True:
        sums: dict[tuple[int, int], list[float]] = {}
        for k, ends in enumerate(regions.edges.tolist()):
            a, b = sorted(part[end] for end in ends)
            if a != b:
                known = sums.setdefault((a, b), [0, 0, 0])
                known[0] += total[k]
                known[1] += regions.length[k]
                known[2] = max(known[2], regions.openings[k])
        strengths = {
            (a, b): s / n * (1 - opening / min(depths[a], depths[b]))
            for (a, b), (s, n, opening) in sums.items()
        }
        a, b = min(strengths, key=strengths.__getitem__, default=(0, 0))
        if a == b or strengths[a, b] >= threshold:
            return part
        part = [a if p == b else p for p in part]
        depths[a] = max(depths[a], depths[b])


@given(st.integers(0, 10_000), st.integers(2, 14), st.floats(0.05, 0.9))
def test_the_weakest_boundary_is_joined_first(
    seed: int, n: int, threshold: float
) -> None:
    regions = graph(seed, n)
    expected = agglomerated(regions, threshold)
    found = MergeTree.of(regions).cut(threshold).tolist()
    assert len(set(zip(found, expected, strict=True))) == len(set(found))
    assert len(set(found)) == len(set(expected))


def test_a_section_of_many_regions_takes_little() -> None:
    regions = graph(0, 20_000)
    MergeTree.of(graph(1, 10))
    tracemalloc.start()
    try:
        tree = MergeTree.of(regions)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(tree.steps) > 15_000
    assert most < 500 * 20_000
