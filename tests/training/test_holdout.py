from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_emseg.core.regions import Region
from napari_emseg.core.stack import Stack
from napari_emseg.core.tiles import Geometry
from napari_emseg.training.holdout import Spacing, split_regions
from napari_emseg.training.sparse_labels import SparseLabels

SHAPE = (4, 256, 256)
SPACING = Spacing(halo=50, sections=1)


@st.composite
def regions(draw: st.DrawFn) -> Region:
    z = draw(st.integers(0, SHAPE[0] - 1))
    top, left = (16 * draw(st.integers(0, 10)) for _ in range(2))
    height, width = (16 * draw(st.integers(1, 5)) for _ in range(2))
    return Region(z, top, left, top + height, left + width)


def far(region: Region, y: NDArray[np.intp], x: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which pixels have at least a halo of pixels between them and a region."""
    rows = np.maximum(region.top - (y + 1), y - region.bottom)
    columns = np.maximum(region.left - (x + 1), x - region.right)
    return np.maximum(rows, columns) >= SPACING.halo


@given(st.lists(regions(), min_size=1, max_size=8, unique=True))
def test_held_out_is_a_halo_away_and_on_no_neighbouring_section(
    reviewed: list[Region],
) -> None:
    division = split_regions(reviewed, SPACING)
    assert sorted((*division.training, *division.held_out)) == sorted(reviewed)
    opinions = SparseLabels(SHAPE)
    for region in reviewed:
        opinions.put(region, np.full(region.shape, 2, np.uint8))
    learnt = opinions.without(
        near for region in division.held_out for near in SPACING.zone(region, SHAPE)
    )
    for block in learnt.blocks:
        y, x = np.nonzero(learnt.window(block))
        for region in division.held_out:
            if abs(block.z - region.z) <= 1:
                assert far(region, y + block.top, x + block.left).all()


@given(st.lists(regions(), min_size=2, max_size=8, unique=True), st.data())
def test_what_judged_one_round_is_not_learnt_in_the_next(
    reviewed: list[Region], data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, len(reviewed)))
    first, all_of_them = (
        split_regions(reviewed[:n], SPACING),
        split_regions(reviewed, SPACING),
    )
    assert set(first.held_out) <= set(all_of_them.held_out)
    assert set(first.training) <= set(all_of_them.training)


@given(st.lists(regions(), min_size=1, max_size=6, unique=True), regions())
def test_nothing_near_what_was_learnt_before_judges(
    reviewed: list[Region], seen: Region
) -> None:
    division = split_regions(reviewed, SPACING, seen=[seen])
    assert not any(SPACING.near(region, seen) for region in division.held_out)


def test_a_single_region_is_learnt() -> None:
    region = Region(0, 0, 0, 64, 64)
    assert split_regions([region], SPACING).training == (region,)


def test_of_many_alike_a_quarter_or_so_judges() -> None:
    apart = [Region(2 * z, 0, 0, 64, 64) for z in range(20)]
    division = split_regions(apart, SPACING)
    assert 4 <= len(division.held_out) <= 6


def test_what_judged_judges_again() -> None:
    regions = [Region(2 * z, 0, 0, 64, 64) for z in range(4)]
    assert regions[0] in split_regions(regions, SPACING, held_out=regions[:1]).held_out


def test_sections_that_show_the_same_tissue_are_near() -> None:
    grey = np.zeros((4, 8, 8), np.uint8)
    geometry = Geometry(16, 94)
    for depth, sections in ((50.0, 1), (30.0, 3), (10.0, 9), (300.0, 1), (None, 1)):
        stack = Stack(grey, voxel_size_nm=(depth, 4.0, 4.0))
        assert Spacing.of(stack, geometry, (1.0, 1.0)).sections == sections
    assert Spacing.of(Stack(grey), geometry, (0.5, 0.5)) == Spacing(192, 1)
