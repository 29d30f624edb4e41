"""Cells of a section block by block are those of the whole, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from bioimage_cpp.segmentation import relabel_sequential
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi

from napari_emseg.core.settings import CellSettings
from napari_emseg.sample import synthetic
from napari_emseg.segmentation import segment_section
from napari_emseg.segmentation.blocks import Area, BlockTables, find_block, paint_block


def probabilities(
    shape: tuple[int, int], seed: int, *, steps: int | None = None
) -> np.ndarray:
    """What a network might say of drawn cells; with `steps`, in so many grades."""
    _, cells = synthetic((1, *shape), seed=seed)
    rng = np.random.default_rng(seed)
    p = ndi.gaussian_filter((cells[0] == 0).astype(np.float32), 1.5) * 1.4
    p = p * rng.uniform(0.3, 1.0, 1) + rng.normal(0, 0.1, shape)
    p = np.clip(ndi.gaussian_filter(p, 0.7), 0, 1).astype(np.float32)
    return p if steps is None else (np.round(p * steps) / steps).astype(np.float32)


def areas(shape: tuple[int, int], side: int) -> list[Area]:
    return [
        (slice(y, min(y + side, shape[0])), slice(x, min(x + side, shape[1])))
        for y in range(0, shape[0], side)
        for x in range(0, shape[1], side)
    ]


def by_blocks(
    p: np.ndarray,
    chosen: CellSettings,
    side: int,
    *,
    exclude: np.ndarray | None = None,
    halo: int = 32,
    widest: int = 1024,
) -> tuple[np.ndarray, int]:
    """Return cells, and how many pixels were unsure."""

    def read(area: Area) -> tuple[np.ndarray, np.ndarray | None]:
        return p[area], None if exclude is None else exclude[area]

    cut = areas(p.shape, side)
    blocks = [
        find_block(read, p.shape, area, chosen, halo=halo, widest=widest)
        for area in cut
    ]
    tables = BlockTables()
    for block in blocks:
        tables.add(block)
    cells = tables.join(chosen)
    places = np.zeros(p.shape, np.uint64)
    out = np.zeros(p.shape, np.uint32)
    for area, block in zip(cut, blocks, strict=True):
        places[area] = block.places
    clear = p if exclude is None else np.where(exclude, np.float32(0), p)
    for area in cut:
        around = tuple(
            slice(max(0, a.start - 1), min(n, a.stop + 1))
            for a, n in zip(area, p.shape, strict=True)
        )
        inner = tuple(
            slice(a.start - b.start, a.stop - b.start)
            for a, b in zip(area, around, strict=True)
        )
        out[area] = paint_block(
            places[around], clear[around], cells, inner, chosen.threshold
        )
    return relabel_sequential(out)[0], sum(block.unsure for block in blocks)


@given(
    shape=st.tuples(st.integers(70, 330), st.integers(70, 330)),
    side=st.sampled_from([64, 128, 192]),
    seed=st.integers(0, 1000),
    steps=st.sampled_from([None, 255, 5]),
    chosen=st.builds(
        CellSettings,
        threshold=st.sampled_from([0.3, 0.5, 0.7]),
        join=st.sampled_from([0.2, 0.5, 0.8]),
        grow=st.sampled_from([0, 8, 40]),
        minimum_size=st.sampled_from([0, 100]),
        small=st.sampled_from(["merge", "remove"]),
        method=st.sampled_from(["agglomeration", "multicut", "mutex-watershed"]),
    ),
)
def test_cells_by_blocks_are_those_of_the_whole(
    shape, side, seed, steps, chosen
) -> None:
    p = probabilities(shape, seed, steps=steps)
    cells, unsure = by_blocks(p, chosen, side)
    assert unsure == 0
    np.testing.assert_array_equal(cells, segment_section(p, chosen))


def test_padding_and_padded_corners_are_left_out_alike() -> None:
    p = probabilities((300, 280), 3)
    exclude = np.zeros(p.shape, bool)
    exclude[:90, :70] = exclude[:, 260:] = True
    chosen = CellSettings()
    cells, _ = by_blocks(p, chosen, 64, exclude=exclude)
    whole = segment_section(np.where(exclude, 0, p), chosen, exclude=exclude)
    np.testing.assert_array_equal(cells, whole)
    assert not cells[exclude].any()


@pytest.mark.parametrize("halo", [9, 32])
def test_cells_wider_than_any_window_are_told_of_and_stay_whole(halo: int) -> None:
    p = np.full((500, 500), 0.02, np.float32)
    p += np.random.default_rng(0).uniform(0, 0.01, p.shape).astype(np.float32)
    p[:, 240:246] = 0.95
    cells, unsure = by_blocks(p, CellSettings(), 128, halo=halo, widest=64)
    assert unsure > 0
    whole = segment_section(p, CellSettings())
    same = (cells[:, :230] == cells[250, 100]).mean()
    assert whole.max() == 2
    assert same == 1.0
    assert cells[250, 100] != cells[250, 400]
