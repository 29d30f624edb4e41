"""Cells of a volume: through its sections at once, in one piece and in blocks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from napari_emseg.core.records import Note, Progress, SectionDone, drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.sinks import ArraySink
from napari_emseg.core.stack import Stack, is_isotropic
from napari_emseg.metrics import overlap_scores
from napari_emseg.sample import synthetic
from napari_emseg.segmentation import segment_stack, settle_through
from napari_emseg.segmentation.volume import iter_segment_volume

ISOTROPIC = (8.0, 8.0, 8.0)
IN_3D = CellSettings(through="3-d", minimum_size=20)


def neurites(shape: tuple[int, int, int], seed: int = 0) -> tuple:
    """What a network might say of drawn cells, and the cells."""
    _, cells = synthetic(shape, seed=seed, cell_size=16, membrane_width=4, drift=0.7)
    rng = np.random.default_rng(seed)
    walls = ndi.gaussian_filter((cells == 0).astype(np.float32), (0.5, 1, 1)) * 1.3
    p = np.clip(walls + rng.normal(0, 0.08, shape), 0, 1).astype(np.float32)
    return p, cells


def two_tubes() -> np.ndarray:
    """Two tubes that move 2 px a section, towards each other and past."""
    z, y, x = np.mgrid[:12, :40, :60].astype(float)
    a = np.hypot(y - 10, x - (10 + 2 * z)) < 6
    b = np.hypot(y - 28, x - (46 - 2 * z)) < 6
    return np.where(a | b, 0.05, 0.95).astype(np.float32)


def test_a_tube_that_moves_is_one_cell() -> None:
    found = drain(segment_stack(two_tubes(), settings=IN_3D))
    assert found.linked == found.count == 2
    assert found.counts == dict.fromkeys(range(12), 2)
    for z in range(12):
        assert found.cells[z, 10, 10 + 2 * z] == 1
        assert found.cells[z, 28, 46 - 2 * z] == 2


@pytest.mark.parametrize("method", ["agglomeration", "multicut", "mutex-watershed"])
def test_drawn_neurites_are_found_by_every_method(method) -> None:
    p, cells = neurites((10, 64, 64), 3)
    found = drain(
        segment_stack(p, settings=IN_3D.model_copy(update={"method": method}))
    )
    scores = overlap_scores(found.cells[cells > 0][None], cells[cells > 0][None])
    assert scores.adapted_rand_error < 0.03


@pytest.mark.parametrize("whole", [2**24, 0], ids=["in one", "in blocks"])
def test_thin_membranes_take_nothing_from_cells_and_broad_ones_do(whole) -> None:
    p = np.full((8, 30, 60), 0.05, np.float32)
    p[:, :, 20] = p[:, :, 40:] = 0.95
    chosen = IN_3D.model_copy(update={"grow": 5})
    found = drain(
        iter_segment_volume(p, chosen, whole=whole, block=(8, 16, 16), margin=64)
    )
    left, right = found[0, 0, 0], found[0, 0, 30]
    assert 0 < left != right > 0
    # the membrane of one voxel belongs to one of them; of the broad one five voxels do
    assert np.isin(found[:, :, 20], [left, right]).all()
    assert (found[:, :, :20] == left).all()
    assert (found[:, :, 21:45] == right).all()
    assert not found[:, :, 45:].any()


@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sides=st.tuples(*[st.sampled_from([5, 16, 40])] * 3),
    chosen=st.builds(
        CellSettings,
        threshold=st.sampled_from([0.3, 0.5]),
        join=st.sampled_from([0.4, 0.7]),
        grow=st.sampled_from([1, 12]),
        minimum_size=st.sampled_from([0, 200]),
        small=st.sampled_from(["merge", "remove"]),
        method=st.sampled_from(["agglomeration", "multicut"]),
    ),
    hole=st.booleans(),
)
def test_blocks_that_see_all_are_the_whole_bit_by_bit(
    seed, sides, chosen, hole
) -> None:
    p, _ = neurites((12, 37, 45), seed)
    if hole:
        p[:, :9, 30:] = np.nan
    whole = drain(iter_segment_volume(p, chosen))
    # so what is measured and joined across borders adds up to what one piece gives
    parts = drain(iter_segment_volume(p, chosen, whole=0, block=sides, margin=64))
    np.testing.assert_array_equal(parts, whole)
    assert not whole[np.isnan(p)].any()


@pytest.mark.parametrize("seed", range(2))
def test_blocks_with_a_margin_differ_little_from_the_whole(seed) -> None:
    p, _ = neurites((16, 64, 64), seed)
    whole = drain(iter_segment_volume(p, IN_3D))
    parts = drain(iter_segment_volume(p, IN_3D, whole=0, block=(16, 32, 32), margin=16))
    # the docs say so: below a hundredth of a bit
    inside = whole > 0
    scores = overlap_scores(parts[inside][None], whole[inside][None])
    assert scores.vi_split + scores.vi_merge < 0.01


@pytest.mark.parametrize("missing", [(5,), (5, 6), (0,), (11,)])
def test_excluded_blank_and_unreadable_sections_are_bridged(missing) -> None:
    p = two_tubes()

    class Damaged:
        shape, dtype = p.shape, p.dtype

        def __getitem__(self, z):
            if z in missing:
                raise OSError("no such page")
            return p[z]

    blank = p.copy()
    blank[list(missing)] = 0.3
    work = segment_stack(p, settings=IN_3D, excluded=missing)
    excluded = drain(work)
    notes: list = []
    damaged = drain(segment_stack(Damaged(), settings=IN_3D), notes.append)
    for found in (excluded, drain(segment_stack(blank, settings=IN_3D)), damaged):
        assert found.linked == 2
        assert not found.cells[list(missing)].any()
        for z in set(range(12)) - set(missing):
            assert found.cells[z, 10, 10 + 2 * z] == 1
            assert found.cells[z, 28, 46 - 2 * z] == 2
    assert set(damaged.damaged) == set(missing)
    assert any(isinstance(record, Note) for record in notes)


def test_cells_end_at_gaps_that_are_too_long() -> None:
    found = drain(segment_stack(two_tubes(), settings=IN_3D, excluded=(4, 5, 6)))
    assert found.linked == 4
    sections = [0, 1, 2, 8, 9, 10]
    apart = drain(segment_stack(two_tubes(), settings=IN_3D, sections=sections))
    assert apart.linked == 4
    assert apart.sections == tuple(sections)
    assert set(np.unique(apart.cells[3:])) == {0, 3, 4}


def test_auto_goes_by_the_voxel_size() -> None:
    assert is_isotropic((8, 4, 4)) is True
    assert is_isotropic((8.1, 4, 4)) is False
    assert is_isotropic((2, 4, 4)) is True
    assert is_isotropic((None, 4, 4)) is is_isotropic(None) is None
    auto = CellSettings(through="auto")
    for size, through in (
        ((8, 8, 8), "3-d"),
        ((40, 4, 4), "graph"),
        ((None, 4, 4), "sections"),
        (None, "sections"),
    ):
        settled = settle_through(auto, size, 12)
        assert settled.through == through
        assert settled.link is (through != "sections")
        assert settle_through(auto, size, 1).through == "sections"
    asked = CellSettings(through="graph")
    assert settle_through(asked, (8, 8, 8), 12).through == "graph"
    stack = Stack(two_tubes(), voxel_size_nm=ISOTROPIC)
    found = drain(
        segment_stack(stack, settings=IN_3D.model_copy(update={"through": "auto"}))
    )
    assert found.linked == 2


def test_records_tell_how_far_it_is_and_a_sink_gets_whole_sections_only() -> None:
    p, seen = two_tubes(), []
    sink = ArraySink(p.shape, np.dtype(np.uint32))
    found = drain(segment_stack(p, settings=IN_3D, sink=sink, first_id=7), seen.append)
    assert found.cells is None
    assert set(np.unique(sink.data)) == {0, 7, 8}
    done = [record for record in seen if isinstance(record, SectionDone)]
    assert [d.z for d in done] == list(range(12))
    assert done[-1].done == done[-1].total == 12
    steps = [record.step for record in seen if isinstance(record, Progress)]
    assert list(dict.fromkeys(steps)) == ["probabilities", "fragments"]
    # whoever stops before the end has nothing half done
    empty = ArraySink(p.shape, np.dtype(np.uint32))
    work = segment_stack(p, settings=IN_3D, sink=empty)
    for _ in range(8):
        next(work)
    work.close()
    assert not empty.data.any()


def test_bytes_are_what_they_stand_for() -> None:
    stored = np.round(two_tubes() * 255).astype(np.uint8)
    there = stored.astype(np.float32) / np.float32(255)
    a, b = (drain(segment_stack(p, settings=IN_3D)).cells for p in (stored, there))
    np.testing.assert_array_equal(a, b)


def test_a_volume_of_nothing_has_no_cells() -> None:
    for value in (0.0, 1.0, np.nan):
        p = np.full((4, 20, 20), value, np.float32)
        found = drain(segment_stack(p, settings=IN_3D))
        assert found.linked == 0
        assert not found.cells.any()


@pytest.mark.parametrize("value", [np.nan, 0.0])
@pytest.mark.parametrize("through", ["3-d", "graph"])
def test_a_section_without_probabilities_is_bridged_and_told_of(value, through) -> None:
    p = two_tubes()
    p[5] = value
    notes: list[str] = []
    found = drain(
        segment_stack(p, settings=IN_3D.model_copy(update={"through": through})),
        lambda r: notes.append(r.message) if isinstance(r, Note) else None,
    )
    assert found.linked == 2
    assert not found.cells[5].any()
    assert len(notes) == 1
    assert notes[0].startswith("section 5 has no probabilities")
    # what is excluded is known to the person who excluded it
    notes.clear()
    drain(
        segment_stack(p, settings=IN_3D, excluded=[5]),
        lambda r: notes.append(r.message) if isinstance(r, Note) else None,
    )
    assert not notes
