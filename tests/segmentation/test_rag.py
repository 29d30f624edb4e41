import numpy as np
import pytest

from napari_emseg.segmentation.rag import (
    EdgeFeatures,
    RegionGraph,
    boundary_pixels,
    depths_of,
    drop_small,
    join_small,
    regions_of,
)


@pytest.fixture
def chain() -> RegionGraph:
    """Regions in a row, 1 – 2 – 3 – 4, with ever stronger membranes between."""
    return RegionGraph(
        sizes=np.array([0, 50, 30, 40, 200]),
        depths=np.array([1.0, 8, 4, 5, 5]),
        edges=np.array([[1, 2], [2, 3], [3, 4]]),
        membrane=np.array([0.2, 0.4, 0.6]),
        length=np.array([10.0, 20.0, 30.0]),
        openings=np.array([0.0, 0.0, 1.0]),
    )


def test_seams_and_what_is_measured_on_them() -> None:
    fragments = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 0, 0]], np.uint32)
    membrane = np.arange(12, dtype=np.float32).reshape(3, 4) / 12
    seams = boundary_pixels(fragments, membrane)
    assert seams.ends.tolist() == [[1, 2], [1, 3]]
    # of two pixels that meet, the later one has more membrane here
    assert sorted(seams.pixels[seams.edges == 0].tolist()) == [2, 6]
    assert sorted(seams.pixels[seams.edges == 1].tolist()) == [8, 9]
    near = np.ones((3, 4), bool)
    near[1] = False
    sizes = np.array([0, 4, 4, 2])
    # 1 and 2 meet where 3 px and 2 px are to the next membrane; 1 and 3 at membranes
    depth = np.array([[0, 3, 2, 1], [0, 1, 1, 1], [0, 0, 1, 0]], np.float32)
    depths = depths_of(fragments, depth)
    assert depths[1:].tolist() == [3, 2, 1]
    strengths = EdgeFeatures.along(seams, membrane, near, depth)
    regions = regions_of(sizes, depths, seams.ends, strengths)
    assert regions.openings.tolist() == [2, 0]
    np.testing.assert_allclose(regions.strength[0], 0, atol=1e-9)
    assert regions.strength[1] == regions.membrane[1]
    np.testing.assert_allclose(regions.membrane * 12, [2, 8.5], rtol=3e-3)
    np.testing.assert_allclose(regions.length, [1, 2], rtol=3e-3)
    nowhere = EdgeFeatures.along(seams, membrane, np.zeros((3, 4), bool), depth)
    far = regions_of(sizes, depths, seams.ends, nowhere)
    np.testing.assert_allclose(far.membrane * 12, [4, 8.5])
    assert seams.between(np.array([0, 1, 1, 2])).tolist() == [8, 9]
    assert seams.between(np.array([0, 1, 2, 0])).tolist() == [2, 6]


def test_merged_regions_add_up(chain: RegionGraph) -> None:
    merged = chain.merged(np.array([0, 1, 1, 2, 1]))  # 1, 2 and 4 become one
    assert merged.sizes.tolist() == [0, 280, 40]
    assert merged.edges.tolist() == [[1, 2]]
    assert merged.length.tolist() == [50]
    assert merged.membrane[0] == pytest.approx((0.4 * 20 + 0.6 * 30) / 50)
    assert merged.depths.tolist() == [1, 8, 5]
    assert merged.openings.tolist() == [1]
    assert merged.strength[0] == pytest.approx(merged.membrane[0] * 4 / 5)


def test_small_regions_join_over_the_weakest_membrane(chain: RegionGraph) -> None:
    # 1 and 2 join each other, and 3 joins 2: together they are large enough
    np.testing.assert_allclose(chain.strength, [0.2, 0.4, 0.48])
    assert join_small(chain, 100).tolist() == [0, 1, 1, 1, 2]
    assert join_small(chain, 60).tolist() == [0, 1, 1, 1, 2]
    assert join_small(chain, 35).tolist() == [0, 1, 1, 2, 3]
    assert join_small(chain, 0).tolist() == [0, 1, 2, 3, 4]


def test_small_regions_without_neighbours_become_background() -> None:
    nothing = np.zeros(0)
    lone = RegionGraph(
        sizes=np.array([0, 5, 200]),
        depths=np.ones(3),
        edges=np.zeros((0, 2), np.int64),
        membrane=nothing,
        length=nothing,
        openings=nothing,
    )
    assert join_small(lone, 100).tolist() == [0, 0, 1]


def test_small_regions_can_be_dropped(chain: RegionGraph) -> None:
    assert drop_small(chain, 45).tolist() == [0, 1, 0, 0, 4]
