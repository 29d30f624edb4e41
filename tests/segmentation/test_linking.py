"""Cells through sections, on stacks that are drawn by hand."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi

from napari_emseg.core.records import Progress, SectionDone, drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.sinks import ArraySink
from napari_emseg.core.stack import Stack
from napari_emseg.metrics import overlap_scores
from napari_emseg.segmentation import link_stack, segment_stack
from napari_emseg.segmentation.linker import Linker, assign
from napari_emseg.segmentation.linking import scratch
from napari_emseg.segmentation.overlap import Overlap, best_overlap


def drawn(*sections: str) -> np.ndarray:
    """Stack of sections; a letter is a cell of 4 × 4 px, a dot lies between cells.

    Ids are given out anew in each section, so that nothing is known of links.
    """
    volume = []
    for section in sections:
        rows = section.split()
        letters = sorted(set("".join(rows)) - {"."})
        ids = [[letters.index(c) + 1 if c != "." else 0 for c in r] for r in rows]
        volume.append(np.kron(np.array(ids, np.uint32), np.ones((4, 4), np.uint32)))
    return np.stack(volume)


def linked(cells: np.ndarray, **chosen) -> np.ndarray:
    found = drain(link_stack(cells, settings=CellSettings(**chosen))).cells
    assert found is not None
    np.testing.assert_array_equal(found > 0, cells > 0)
    return found


def ids(cells: np.ndarray, z: int, row: int, column: int) -> int:
    return int(cells[z, 4 * row, 4 * column])


def test_profiles_go_on_in_what_they_overlap_most() -> None:
    found = linked(drawn("aaa.bbb", "bbbb.aa", "cc.dddd"))
    left = {ids(found, z, 0, 0) for z in range(3)}
    right = {ids(found, z, 0, 6) for z in range(3)}
    assert (len(left), len(right)) == (1, 1)
    assert left != right


def test_the_best_of_all_assignments_wins_over_the_best_pair() -> None:
    # b overlaps x best, and so does a, which has nothing else; c, too, has b's second
    found = linked(drawn("aaa.bbbb.", "xxxxxx.yy"), overlap=0.05)
    assert ids(found, 0, 0, 0) == ids(found, 1, 0, 0)
    assert ids(found, 0, 0, 5) == ids(found, 1, 0, 8)


def test_too_little_overlap_is_no_link() -> None:
    cells = drawn("aaaa....", "...aaaaa")
    assert len(np.unique(linked(cells, overlap=0.2, shift=0))) == 3
    assert len(np.unique(linked(cells, overlap=0.1, shift=0))) == 2


def test_a_blank_section_is_bridged() -> None:
    cells = drawn("aa.bb", ".....", ".....", ".....", "bb.aa")
    found = linked(cells)
    assert ids(found, 0, 0, 0) == ids(found, 4, 0, 0)
    assert found.max() == 2


def test_an_excluded_section_is_bridged_and_has_no_cells() -> None:
    cells = drawn("aa.bb", "aaaaa", "bb.aa")
    result = drain(link_stack(cells, excluded=[1]))
    assert result.cells is not None
    assert not result.cells[1].any()
    assert ids(result.cells, 0, 0, 0) == ids(result.cells, 2, 0, 0)
    assert (result.count, result.profiles) == (2, 4)


def test_a_profile_that_is_missed_in_some_sections_is_found_again() -> None:
    found = linked(drawn("aa.bb", "aa...", "aa...", "aa.bb"))
    assert ids(found, 0, 0, 4) == ids(found, 3, 0, 4)


RETURNING = ("aaaaaa", "aaaa.b", "aaaa.b", "aaaaaa")
ENDING = ("aaa.bb",) * 4 + ("aaaaaa",) * 2
STARTING = ENDING[::-1]
SHORT = ("aaa.bb",) * 2 + ("aaaaaa",) * 2


@pytest.mark.parametrize(
    ("sections", "branches", "cells"),
    [
        (RETURNING, "returning", 1),
        (RETURNING, "none", 2),
        (RETURNING, "all", 1),
        (ENDING, "returning", 2),
        (ENDING, "all", 1),
        (STARTING, "returning", 2),
        (STARTING, "all", 1),
        (STARTING, "none", 2),
        (SHORT, "returning", 1),
        (SHORT[::-1], "returning", 1),
        (SHORT, "none", 2),
    ],
)
def test_branches(sections, branches: str, cells: int) -> None:
    assert linked(drawn(*sections), branches=branches).max() == cells


def test_a_short_bit_joins_the_longer_cell_that_it_shares_most_with() -> None:
    # b has two profiles, and lies in a where it begins and in c where it ends
    before, after = ("aaaa.ccccccc",) * 3, ("aa.ccccccccc",) * 3
    found = linked(drawn(*before, "aaab.ccccccc", "aa.bbb.ccccc", *after))
    assert ids(found, 3, 0, 3) == ids(found, 4, 0, 4) == ids(found, 5, 0, 4)
    assert ids(found, 0, 0, 0) != ids(found, 5, 0, 4)
    assert found.max() == 2


def apart_and_within() -> tuple[np.ndarray, np.ndarray]:
    """Five sections of a cell, parted in three by a hand, with another within it."""
    cells = np.zeros((5, 24, 40), np.uint32)
    cells[:, 2:22, 2:38] = 1
    walls = np.zeros(cells.shape, bool)
    walls[1:4, 2:22, 25:27] = True
    walls[2, 8:16, 6:16] = True
    walls[2, 10:14, 8:14] = False
    for z in range(5):
        cells[z] = ndi.label(cells[z].astype(bool) & ~walls[z])[0]
    return cells, walls


def test_all_pieces_that_walls_cut_a_cell_into_are_apart() -> None:
    cells = np.zeros((5, 24, 40), np.uint32)
    cells[:, 2:22, 2:38] = 1
    walls = np.zeros(cells.shape, bool)
    walls[2, 2:22, [18, 19, 26, 27]] = True
    cells[2] = ndi.label(cells[2].astype(bool) & ~walls[2])[0]
    found = drain(link_stack(cells, drawn=walls.__getitem__)).cells
    assert len(set(found[2, 10, [10, 22, 32]])) == 3
    # another cell lies between the arms of one that branches, and all walls are drawn
    cells[2] = np.where(cells[2] == 2, 0, cells[2])
    cells[2, 2:22, 20:26] = 4
    cells[[0, 1, 3, 4], 8:16, 20:26] = 4
    walls[:, 7:17, 19:27] = cells[:, 7:17, 19:27] == 0
    for z in (0, 1, 3, 4):
        walls[z, 7:17, 19:27] |= ndi.binary_dilation(cells[z] == 4)[7:17, 19:27]
        walls[z] &= cells[z] != 4
    cells[walls] = 0
    found = drain(link_stack(cells, drawn=walls.__getitem__)).cells
    assert len(set(found[:, 12, 22])) == 1
    assert len({*found[:, 4, 10], found[2, 10, 32]}) == 1


@pytest.mark.parametrize("branches", ["returning", "all"])
def test_what_a_hand_parted_is_no_branch(branches) -> None:
    cells, walls = apart_and_within()
    settings = CellSettings(branches=branches)
    alike = linked(cells, branches=branches)
    assert len(np.unique(alike)) == 2
    found = drain(link_stack(cells, settings=settings, drawn=walls.__getitem__)).cells
    assert len(set(found[:, 3, 3])) == 1
    right, within = np.unique(found[1:4, 10, 30]), found[2, 11, 10]
    # what lies on the other side is one cell in all sections
    assert len(right) == 1
    assert {found[0, 3, 3], right[0], within} == {1, 2, 3}
    # where a line ends that was drawn elsewhere nothing is parted
    ends = np.zeros_like(walls)
    ends[1:4, 2:4, 25:27] = True
    found = drain(link_stack(cells, settings=settings, drawn=ends.__getitem__)).cells
    np.testing.assert_array_equal(found, alike)


def test_cells_drawn_together_in_one_section_stay_apart() -> None:
    found = linked(drawn("aaa.bbbb", "aaa.bbbb", "aaaaaaaa", "aaa.bbbb"))
    assert ids(found, 0, 0, 0) == ids(found, 3, 0, 0)
    assert ids(found, 0, 0, 4) == ids(found, 3, 0, 4)
    assert ids(found, 0, 0, 0) != ids(found, 0, 0, 4)


def mosaic(seed: int, size: int = 160) -> np.ndarray:
    """Cells around random points, 1 px apart."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, size, (60, 2))
    grid = np.stack(np.mgrid[:size, :size], -1)
    nearest = ((grid[:, :, None] - points) ** 2).sum(-1).argmin(-1) + 1
    edge = (np.roll(nearest, 1, 0) != nearest) | (np.roll(nearest, 1, 1) != nearest)
    return np.where(edge, 0, nearest).astype(np.uint32)


@pytest.mark.parametrize("shift", [(18, -14), (0, 20), (-16, 12)])
def test_a_section_that_jumps_is_linked(shift: tuple[int, int]) -> None:
    before = mosaic(1)
    after = np.roll(before, shift, (0, 1))
    pair = np.stack([before, after])
    truth = np.where(pair > 0, pair, 0)
    assert 1 - overlap_scores(linked(pair), truth).adapted_rand_error > 0.9
    still = overlap_scores(linked(pair, shift=0), truth)
    assert 1 - still.adapted_rand_error < 0.8
    assert best_overlap(before, after, 40).shift == tuple(-s for s in shift)


def test_links_through_a_jump_hold_when_a_section_is_missed() -> None:
    before = mosaic(2)
    after = np.roll(before, (16, 16), (0, 1))
    without = np.where(after == after[80, 80], 0, after)
    stack = np.stack([before, without, after])
    found = linked(stack)
    where = after == after[80, 80]
    back = np.roll(where, (-16, -16), (0, 1))
    assert np.unique(found[2][where]).tolist() == np.unique(found[0][back]).tolist()


@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), first=st.integers(1, 500))
def test_ids_are_numbers_in_order_whatever_the_stack(seed, n, first) -> None:
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 6, (n, 6, 7), np.uint32).repeat(5, 1).repeat(5, 2)
    result = drain(link_stack(cells, first_id=first))
    assert result.cells is not None
    assert result.cells.dtype == np.uint32
    found = np.unique(result.cells[result.cells > 0])
    assert found.tolist() == list(range(first, first + result.count))
    again = drain(link_stack(cells, first_id=first)).cells
    np.testing.assert_array_equal(result.cells, again)
    for new, old in zip(result.cells, cells, strict=True):
        pairs = set(zip(new.ravel().tolist(), old.ravel().tolist(), strict=True))
        assert len(pairs) >= len(set(old.ravel().tolist()))


@given(seed=st.integers(0, 10_000), n=st.integers(1, 4), m=st.integers(1, 4))
def test_the_assignment_is_the_best_there_is(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.random((n, m)) * (rng.random((n, m)) < 0.6)
    left, right = np.nonzero(table)
    chosen = assign(left, right, table[left, right])
    assert len(set(left[chosen])) == len(set(right[chosen])) == len(chosen)
    k = max(n, m)
    padded = np.zeros((k, k))
    padded[:n, :m] = table
    orders = itertools.permutations(range(k))
    best = max(sum(padded[range(k), order]) for order in orders)
    assert table[left[chosen], right[chosen]].sum() == pytest.approx(best)


def test_segmenting_with_links_is_segmenting_and_then_linking(drawn_stack) -> None:
    _, known = drawn_stack
    p = np.where(known == 0, np.float32(0.95), np.float32(0.05))
    chosen = CellSettings(link=True, minimum_size=20)
    apart = drain(segment_stack(p, settings=CellSettings(minimum_size=20)))
    assert apart.cells is not None
    wanted = drain(link_stack(apart.cells, settings=chosen))
    records = []
    result = drain(segment_stack(p, settings=chosen), records.append)
    np.testing.assert_array_equal(result.cells, wanted.cells)
    assert result.linked == result.count == wanted.count < apart.count
    sink = ArraySink(p.shape, np.dtype(np.uint32))
    to_sink = drain(segment_stack(p, settings=chosen, sink=sink))
    np.testing.assert_array_equal(sink.data, wanted.cells)
    assert to_sink.cells is None
    assert [r for r in records if isinstance(r, SectionDone)] == [
        SectionDone(z, z + 1, 4) for z in range(4)
    ]
    steps = [r.step for r in records if isinstance(r, Progress)]
    assert steps == ["cells"] * 4 + ["link"] * 4


def test_excluded_sections_are_not_read(drawn_stack) -> None:
    _, known = drawn_stack
    p = np.where(known == 0, np.float32(0.95), np.float32(0.05))
    p[1] = 7  # no probability: reading it would be told of
    chosen = CellSettings(link=True, minimum_size=20)
    result = drain(segment_stack(p, settings=chosen, excluded=[1]))
    assert result.cells is not None
    assert (result.damaged, result.counts[1]) == ({}, 0)
    assert not result.cells[1].any()
    kept = set(np.unique(result.cells[0])) & set(np.unique(result.cells[2]))
    assert len(kept - {0}) > 3


def test_known_cells_are_linked(drawn_stack) -> None:
    _, known = drawn_stack
    scores = overlap_scores(linked(known), known)
    assert scores.adapted_rand_error < 0.05


def test_scratch_is_an_array_of_zeros() -> None:
    array = scratch((2, 3, 4))
    assert array.shape == (2, 3, 4)
    assert not array.any()
    array[1] = 5
    assert array[1].sum() == 60


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (np.zeros((2, 5, 5), np.float32), "integers, not float32"),
        (np.full((2, 5, 5), -3, np.int32), "negative ids, down to -3"),
    ],
)
def test_what_is_no_cells_is_refused(cells, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drain(link_stack(Stack(cells)))


@pytest.mark.shared_data
def test_a_real_blank_section_is_bridged(shared_data) -> None:
    """Section 14 of CREMI C is blank; cells of membranes by grey value go on behind."""
    from scipy import ndimage as ndi
    from tifffile import imread

    grey = imread(shared_data / "cremi_c_crop" / "image.tif", key=range(12, 18))
    dark = ndi.gaussian_filter(grey[:, :256, :256].astype(np.float32), (0, 2, 2))
    p = np.clip((150 - dark) / 60, 0, 1)
    p[2] = 0.3  # what nothing was seen in
    result = drain(segment_stack(p, settings=CellSettings(link=True, threshold=0.3)))
    assert result.cells is not None
    assert not result.cells[2].any()
    before, after = (result.cells[z][result.cells[z] > 0] for z in (1, 3))
    assert np.isin(after, before).mean() > 0.5


def test_linking_keeps_little_of_each_profile() -> None:
    """A stack of ten thousand sections has millions of them."""
    n, sections = 400, 60
    rng = np.random.default_rng(0)
    sizes = np.r_[0, np.full(n, 100)]
    linker = Linker(CellSettings(link=True))
    tracemalloc.start()
    try:
        for z in range(sections):
            after = rng.permutation(n) + 1
            shared = rng.integers(20, 100, n)  # some go on, some begin within another
            along = Overlap(rng.permutation(n) + 1, after, shared)
            linker.add_counted(sizes, [along] * min(z, 3))
        held = tracemalloc.get_traced_memory()[0]
        assert max(int(ids.max()) for ids in linker.finish()) > 1000
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < 12 * n * sections
    assert most < 40 * n * sections
