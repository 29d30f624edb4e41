"""Cells by affinities: of a volume, in blocks, and by one graph."""

import numpy as np
import pytest

from napari_emseg.core.records import drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.metrics import overlap_scores
from napari_emseg.sample import synthetic
from napari_emseg.segmentation import segment_stack, settle_through
from napari_emseg.segmentation.affinities import (
    NEXT,
    Affinities,
    affinity_classes,
    offset_of,
)
from napari_emseg.segmentation.stack_graph import iter_segment_graph
from napari_emseg.segmentation.volume import iter_segment_volume

IN_3D = CellSettings(through="3-d", minimum_size=20)
BY_GRAPH = CellSettings(through="graph", minimum_size=20)


def said_of(ids: np.ndarray, seed: int = 0, noise: float = 0.15) -> Affinities:
    """What a network that errs a little might say of true ids."""
    rng, arrays = np.random.default_rng(seed), {}
    for axis, offset in enumerate(NEXT):
        before = np.roll(ids, 1, axis)
        same = (ids == before) & (ids > 0)
        said = np.where(same, 0.9, 0.1) + rng.normal(0, noise, ids.shape)
        arrays[offset] = np.clip(said, 0, 1).astype(np.float32)
    return Affinities(arrays)


def drawn(shape: tuple[int, int, int], seed: int = 0, drift: float = 0.7) -> np.ndarray:
    _, cells = synthetic(shape, seed=seed, cell_size=16, membrane_width=2, drift=drift)
    return cells


def vi(found: np.ndarray, cells: np.ndarray) -> float:
    scores = overlap_scores(found[cells > 0][None] + 1, cells[cells > 0][None])
    return scores.variation_of_information


def test_classes_are_known_by_their_names() -> None:
    assert offset_of("affinity z1") == (-1, 0, 0)
    assert offset_of("affinity x9") == (0, 0, -9)
    assert [offset_of(n) for n in ("affinity", "affinity z0", "affinity w1")] == (
        [None] * 3
    )
    names = ("membrane", "inside", "affinity x1", "affinity y3", "affinity z1")
    assert affinity_classes(names) == ("affinity z1", "affinity x1")
    assert affinity_classes(names[:4]) == ()


def test_affinities_that_fit_nothing_are_refused() -> None:
    p = np.zeros((3, 8, 8), np.float32)
    with pytest.raises(ValueError, match="'mitochondria' is no affinity"):
        Affinities.named({"mitochondria": p}, p.shape)
    with pytest.raises(ValueError, match=r"has \(2, 8, 8\) voxels"):
        Affinities.named({"affinity z1": p[1:]}, p.shape)
    with pytest.raises(ValueError, match="need 'affinity z1', got affinity y1"):
        Affinities.named({"affinity y1": p}, p.shape)
    wrong = Affinities.named({"affinity z1": p + 7}, p.shape)
    with pytest.raises(ValueError, match="section 0 are no probabilities"):
        drain(segment_stack(p, settings=IN_3D, affinities=wrong))
    with pytest.raises(ValueError, match="but affinities"):
        segment_stack(p[1:], settings=IN_3D, affinities=wrong)


def test_where_sections_show_no_membrane_affinities_tell_cells_apart() -> None:
    """Two cells lie on each other, with no membrane between them in any section."""
    p = np.full((6, 24, 24), 0.05, np.float32)
    p[:, [0, -1]] = p[:, :, [0, -1]] = 0.95
    chosen = CellSettings(minimum_size=20)
    assert drain(iter_segment_graph(p, chosen)).max() == 1
    z = np.full(p.shape, 0.95, np.float32)
    z[3] = 0.02  # section 3 doesn't go on what section 2 shows
    said = Affinities.named({"affinity z1": z}, p.shape)
    found = drain(iter_segment_graph(p, chosen, affinities=said))
    assert found.max() == 2
    assert found[2, 12, 12] == 1
    assert found[3, 12, 12] == 2


def test_membranes_too_faint_to_part_cells_do_with_affinities() -> None:
    cells = drawn((8, 64, 64), 3)
    p = np.where(cells == 0, 0.3, 0.05).astype(np.float32)
    assert vi(drain(iter_segment_volume(p, IN_3D)), cells) > 1
    found = drain(iter_segment_volume(p, IN_3D, affinities=said_of(cells)))
    assert vi(found, cells) < 0.3


@pytest.mark.parametrize("method", ["agglomeration", "multicut", "mutex-watershed"])
@pytest.mark.parametrize("way", [IN_3D, BY_GRAPH])
def test_cells_by_noisy_affinities_are_those_that_were_drawn(way, method) -> None:
    cells = drawn((8, 64, 64), 3)
    p = (cells == 0).astype(np.float32)
    chosen = way.model_copy(update={"method": method})
    found = drain(segment_stack(p, settings=chosen, affinities=said_of(cells)))
    assert vi(found.cells, cells) < 0.3


@pytest.mark.parametrize("shape", [(40, 70, 70), (5, 96, 130)])
def test_blocks_that_see_all_are_the_whole_with_affinities(shape) -> None:
    cells = drawn(shape, 5)
    p = (cells == 0).astype(np.float32)
    said = said_of(cells)
    whole = drain(iter_segment_volume(p, IN_3D, affinities=said))
    blocks = drain(
        iter_segment_volume(
            p, IN_3D, affinities=said, whole=1, block=(20, 32, 32), margin=200
        )
    )
    np.testing.assert_array_equal(whole, blocks)


def test_what_was_seen_without_a_picture_doesnt_count() -> None:
    """A network says nonsense of a missing section: cells go on behind it anyhow."""
    cells = drawn((7, 64, 64), 2, 0.2)
    p = (cells == 0).astype(np.float32)
    said = said_of(cells)
    for array in said.arrays.values():
        array[3] = 0
    said.arrays[NEXT[0]][4] = 0
    found = drain(segment_stack(p, settings=IN_3D, excluded=[3], affinities=said)).cells
    assert not found[3].any()
    both = (cells[2] == cells[4]) & (cells[2] > 0) & (found[2] > 0) & (found[4] > 0)
    assert (found[2] == found[4])[both].mean() > 0.9


def test_affinities_of_a_shifted_section_say_nothing() -> None:
    cells = drawn((3, 96, 96), 1, 0.2)
    moved = np.stack([cells[0], np.roll(cells[1], (12, -8), (0, 1)), cells[2]])
    p = (moved == 0).astype(np.float32)
    without = drain(iter_segment_graph(p, BY_GRAPH))
    told = drain(iter_segment_graph(p, BY_GRAPH, affinities=said_of(moved)))
    np.testing.assert_array_equal(told, without)


def test_auto_needs_no_voxel_size_where_affinities_say_how_sections_go_on() -> None:
    auto = CellSettings(through="auto")
    assert settle_through(auto, None, 5).through == "sections"
    assert settle_through(auto, None, 5, affinities=True).through == "graph"
    assert settle_through(auto, (8, 8, 8), 5, affinities=True).through == "3-d"
    assert settle_through(auto, (40, 8, 8), 5, affinities=True).through == "graph"
    assert settle_through(auto, None, 1, affinities=True).through == "sections"
