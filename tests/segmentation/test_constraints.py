"""Merges and splits by hand are kept by every later solution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_emseg.core.records import drain
from napari_emseg.core.regions import Constraint
from napari_emseg.core.settings import CellSettings
from napari_emseg.sample import synthetic
from napari_emseg.segmentation import segment_stack
from napari_emseg.segmentation.constraints import NodeConstraints
from napari_emseg.segmentation.fragments import joined
from napari_emseg.segmentation.rag import RegionGraph
from napari_emseg.segmentation.stack_graph import iter_find_stack_fragments
from napari_emseg.segmentation.volume import iter_segment_volume

METHODS = ("agglomeration", "multicut", "mutex-watershed")


def graph(n: int, edges: list[tuple[int, int]], seed: int) -> RegionGraph:
    """A graph of n fragments and chance boundaries."""
    rng, m = np.random.default_rng(seed), len(edges)
    return RegionGraph(
        np.concatenate([[0], rng.integers(1, 60, n)]),
        np.ones(n + 1),
        np.array(sorted(edges), np.int64).reshape(-1, 2),
        rng.random(m),
        np.ones(m),
        np.zeros(m),
    )


@st.composite
def cases(draw):
    n = draw(st.integers(2, 12))
    nodes = st.integers(1, n)
    pairs = st.tuples(nodes, nodes).filter(lambda p: p[0] < p[1])
    edges = draw(st.sets(pairs, max_size=30))
    said = draw(st.lists(st.tuples(nodes, nodes, st.booleans()), max_size=6))
    return graph(n, list(edges), draw(st.integers(0, 99))), said


@given(
    case=cases(),
    method=st.sampled_from(METHODS),
    join=st.sampled_from([0.0, 0.5, 1.0]),
    least=st.sampled_from([0, 30]),
    small=st.sampled_from(["merge", "remove"]),
)
def test_what_was_said_last_holds_by_every_method(
    case, method, join, least, small
) -> None:
    regions, said = case
    chosen = CellSettings(method=method, join=join, minimum_size=least, small=small)
    cells = joined(regions, chosen, said=NodeConstraints.of(said))
    assert len(cells) == len(regions.sizes)
    assert cells[0] == 0
    # the last word holds always, an earlier one unless a later one contradicts it
    for a, b, same in said[-1:]:
        if same:
            assert cells[a] == cells[b]
        elif a != b:
            assert cells[a] != cells[b] or cells[a] == 0
    if not said:
        np.testing.assert_array_equal(cells, joined(regions, chosen))


def test_of_what_contradicts_the_later_counts() -> None:
    said = NodeConstraints.of([(1, 2, True), (1, 2, False)])
    assert said.apart.tolist() == [[1, 2]]
    assert len(said.joined) == 0
    said = NodeConstraints.of([(1, 2, False), (2, 3, True), (1, 3, True)])
    assert sorted(said.joined.tolist()) == [[1, 3], [2, 3]]
    assert len(said.apart) == 0
    assert len(NodeConstraints.of([(0, 2, True)]).joined) == 0
    assert NodeConstraints.of([]) is None


def test_a_cell_is_cut_where_its_strongest_boundary_is_and_others_stay() -> None:
    # 1 - 2 - 3 - 4 in a row, weakest at 2 - 3; 5 - 6 are another cell
    edges = [(1, 2), (2, 3), (3, 4), (5, 6)]
    regions = RegionGraph(
        np.array([0, 50, 50, 50, 50, 50, 50]), np.ones(7), np.array(edges),
        np.array([0.1, 0.3, 0.2, 0.1]), np.ones(4), np.zeros(4),
    )  # fmt: skip
    for method in METHODS:
        chosen = CellSettings(method=method, minimum_size=0)
        assert joined(regions, chosen).tolist() == [0, 1, 1, 1, 1, 2, 2]
        said = NodeConstraints.of([(1, 4, False)])
        assert joined(regions, chosen, said=said).tolist() == [0, 1, 1, 2, 2, 3, 3]


def membranes(seed: int) -> np.ndarray:
    _, cells = synthetic((5, 64, 64), seed=seed, drift=0.4, cell_size=16)
    return np.where(cells > 0, 0.05, 0.9).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("through", ["3-d", "graph"])
def test_cells_of_a_stack_are_merged_and_split_as_was_said(through, method) -> None:
    p = membranes(2)
    chosen = CellSettings(through=through, method=method, minimum_size=20)
    free = drain(segment_stack(p, settings=chosen)).cells
    tall = [i for i in np.unique(free[free > 0]) if (free == i).any((1, 2)).all()]
    one, other = (tuple(map(int, np.argwhere(free[1] == i).mean(0))) for i in tall[:2])
    own = np.argwhere((free == tall[2]) & (p < 0.5))
    before, inner = (next(at for at in own if at[0] == z) for z in (1, 2))
    said = [
        Constraint((1, *_in(free[1], tall[0], one)), (1, *_in(free[1], tall[1], other)),
                   same=True),
        Constraint(tuple(map(int, before)), tuple(map(int, inner)), same=False),
    ]  # fmt: skip
    found = drain(segment_stack(p, settings=chosen, constraints=said))
    assert found.constraints == (2, 2)
    assert all(c.is_kept(found.cells) for c in said)
    # others are as they were
    rest = ~np.isin(free, [0, *tall[:3]])
    a, b = free[rest], found.cells[rest]
    assert len(np.unique(np.stack([a, b]), axis=1).T) == len(np.unique(a))
    # and the live preview says the same
    stack = drain(iter_find_stack_fragments(p, chosen, constraints=said))
    ids = stack.joined(chosen)
    shown = np.stack([stack.section(z, ids, chosen) for z in range(len(p))])
    assert all(c.is_kept(shown) for c in said)


def _in(section: np.ndarray, cell: int, near: tuple[int, int]) -> tuple[int, int]:
    pixels = np.argwhere(section == cell)
    return tuple(map(int, pixels[((pixels - near) ** 2).sum(1).argmin()]))


def test_blocks_keep_what_was_said() -> None:
    p = membranes(4)
    chosen = CellSettings(minimum_size=20)
    free = drain(iter_segment_volume(p, chosen))
    a, b = (np.argwhere(free == i)[0] for i in np.unique(free[free > 0])[:2])
    said = [Constraint(tuple(map(int, a)), tuple(map(int, b)), same=True)]
    found = drain(
        iter_segment_volume(
            p, chosen, constraints=said, whole=1, block=(5, 32, 32), margin=200
        )
    )
    assert said[0].is_kept(found)
    assert len(np.unique(found)) == len(np.unique(free)) - 1


def test_a_constraint_of_a_part_is_counted_from_there() -> None:
    said = Constraint((3, 10, 12), (4, 11, 13), same=True)
    moved = said.within((2, 10, 10), (6, 20, 20))
    assert moved == Constraint((1, 0, 2), (2, 1, 3), same=True)
    assert said.within((4, 0, 0), (6, 20, 20)) is None
    assert said.within((0, 0, 0), (4, 20, 20)) is None
