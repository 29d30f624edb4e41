import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from napari_emseg.cells import segment_section
from napari_emseg.cells.fragments import flood, seeds
from napari_emseg.cells.regions import (
    Regions,
    drop_small,
    join_necks,
    join_small,
    regions_of,
)
from napari_emseg.core.settings import CellSettings


@pytest.fixture
def chain() -> Regions:
    """Regions in a row, 1 – 2 – 3 – 4, with ever stronger membranes between."""
    return Regions(
        sizes=np.array([0, 50, 30, 40, 200]),
        depth=np.array([0, 9, 3, 9, 9], np.float32),
        edges=np.array([[1, 2], [2, 3], [3, 4]]),
        membrane=np.array([0.2, 0.4, 0.6]),
        length=np.array([10.0, 20.0, 30.0]),
        opening=np.array([2, 2, 0], np.float32),
    )


def test_fragments_are_measured() -> None:
    fragments = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 0, 0]], np.uint32)
    membrane = np.arange(12, dtype=np.float32).reshape(3, 4) / 12
    depth = np.array([[2, 1, 1, 2], [1, 0, 1, 2], [3, 1, 0, 0]], np.float32)
    regions = regions_of(fragments, membrane, depth)
    assert regions.sizes.tolist() == [0, 3, 4, 2]
    assert regions.depth.tolist() == [0, 2, 2, 3]
    assert regions.edges.tolist() == [[1, 2], [1, 3]]
    np.testing.assert_allclose(regions.membrane * 12, [3.5, 6.5])
    assert regions.length.tolist() == [2, 2]
    assert regions.opening.tolist() == [1, 1]


def test_merged_regions_add_up(chain: Regions) -> None:
    merged = chain.merged(np.array([0, 1, 1, 2, 1]))  # 1, 2 and 4 become one
    assert merged.sizes.tolist() == [0, 280, 40]
    assert merged.depth.tolist() == [0, 9, 9]
    assert merged.edges.tolist() == [[1, 2]]
    assert merged.length.tolist() == [50]
    assert merged.membrane[0] == pytest.approx((0.4 * 20 + 0.6 * 30) / 50)
    assert merged.opening.tolist() == [2]


def test_small_regions_join_over_the_weakest_membrane(chain: Regions) -> None:
    # 1 and 2 join each other, and 3 joins 2: together they are large enough
    assert join_small(chain, 100).tolist() == [0, 1, 1, 1, 2]
    assert join_small(chain, 60).tolist() == [0, 1, 1, 1, 2]
    assert join_small(chain, 35).tolist() == [0, 1, 1, 2, 3]
    assert join_small(chain, 0).tolist() == [0, 1, 2, 3, 4]


def test_small_regions_without_neighbours_become_background() -> None:
    nothing = np.zeros(0)
    lone = Regions(
        sizes=np.array([0, 5, 200]),
        depth=np.array([0, 1, 9], np.float32),
        edges=np.zeros((0, 2), np.int64),
        membrane=nothing,
        length=nothing,
        opening=nothing.astype(np.float32),
    )
    assert join_small(lone, 100).tolist() == [0, 0, 1]


def test_small_regions_can_be_dropped(chain: Regions) -> None:
    assert drop_small(chain, 45).tolist() == [0, 1, 0, 0, 4]


def test_an_opening_is_a_gap_only_between_wider_regions(chain: Regions) -> None:
    # 2 is 3 px deep and its openings are 2 px: it is a bulge of 1, and then 3 is
    # wide enough to be a cell beside them both
    assert join_necks(chain).tolist() == [0, 1, 1, 2, 3]


def test_a_thin_process_of_uneven_width_stays_one_cell() -> None:
    membrane = np.full((40, 120), 0.9, np.float32)
    membrane[17:23] = 0.1
    membrane[17, 30:60] = 0.9  # 5 px wide
    membrane[17:19, 80:90] = 0.9  # 4 px
    cells = segment_section(membrane, CellSettings(gap=4))
    assert cells.max() == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), gap=st.integers(0, 6))
def test_every_place_inside_is_in_one_fragment(seed: int, gap: int) -> None:
    rng = np.random.default_rng(seed)
    membrane = ndi.gaussian_filter(rng.normal(size=(40, 50)), 2).astype(np.float32)
    depth = ndi.distance_transform_edt(membrane <= 0).astype(np.float32)
    markers = seeds(depth, gap)
    areas, n = ndi.label(depth > 0)
    assert set(np.unique(areas[markers > 0])) == set(range(1, n + 1))
    fragments = flood(membrane, markers)
    assert (fragments > 0).all() or n == 0
    np.testing.assert_array_equal(fragments[markers > 0], markers[markers > 0])
    for fragment in range(1, int(fragments.max()) + 1):
        assert ndi.label(fragments == fragment)[1] == 1
