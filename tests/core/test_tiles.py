from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from napari_emseg.core.tiles import (
    Geometry,
    Tile,
    TilePlan,
    core_of,
    mirror,
    read_tile,
)

quick = settings(deadline=None)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    stride = draw(st.sampled_from([1, 2, 4, 8, 16]))
    context = draw(st.integers(0, 60))
    if draw(st.booleans()):
        return Geometry(stride, context)
    return Geometry(stride, context, "valid", remainder=draw(st.integers(0, 4)))


@st.composite
def plans(draw: st.DrawFn, zooms: st.SearchStrategy[float] | None = None) -> TilePlan:
    geometry = draw(geometries())
    shape = draw(st.tuples(st.integers(1, 80), st.integers(1, 80)))
    if zooms is None:
        zooms = st.one_of(st.just(1.0), st.floats(0.3, 3))
    zoom = draw(st.tuples(zooms, zooms))
    smallest = TilePlan.smallest_tile(geometry)
    tile = draw(st.one_of(st.none(), st.integers(smallest + 8, smallest + 100)))
    roi = None
    if draw(st.booleans()):
        roi = tuple(draw(parts(size)) for size in shape)
    return TilePlan(shape, geometry, zoom, tile, roi)  # type: ignore[arg-type]


@st.composite
def parts(draw: st.DrawFn, size: int) -> slice:
    start = draw(st.integers(0, size - 1))
    return slice(start, draw(st.integers(start + 1, size)))


@st.composite
def blended_plans(draw: st.DrawFn) -> TilePlan:
    stride = draw(st.sampled_from([1, 2, 4, 8]))
    blend = draw(st.integers(1, 20))
    halo = -(-(blend + draw(st.integers(0, 20))) // stride) * stride
    smallest = draw(st.integers(0, 120))
    geometry = Geometry(stride, halo, blend=blend, smallest=smallest)
    zoom = draw(st.tuples(*[st.one_of(st.just(1.0), st.floats(0.3, 3))] * 2))
    shape = draw(st.tuples(st.integers(1, 150), st.integers(1, 150)))
    least = TilePlan.smallest_tile(geometry)
    tile = draw(st.one_of(st.none(), st.integers(least + 8, least + 60)))
    roi = tuple(draw(parts(size)) for size in shape) if draw(st.booleans()) else None
    return TilePlan(shape, geometry, zoom, tile, roi)  # type: ignore[arg-type]


def height_and_width(tile: Tile) -> tuple[int, int]:
    y, x = tile.window
    return y.stop - y.start, x.stop - x.start


@quick
@given(plans())
def test_each_wanted_pixel_is_in_exactly_one_core(plan: TilePlan) -> None:
    count = np.zeros(plan.shape, int)
    for tile in plan:
        count[tile.core] += 1
    wanted = np.zeros(plan.shape, int)
    wanted[plan.wanted] = 1
    np.testing.assert_array_equal(count, wanted)


@quick
@given(plans())
def test_windows_have_one_shape_and_lie_on_the_grid(plan: TilePlan) -> None:
    stride, trim = plan.geometry.stride, plan.geometry.trim
    for tile in plan:
        assert height_and_width(tile) == plan.window_shape
        for part in tile.window:
            kept = part.stop - part.start - 2 * trim
            assert (part.start + trim) % stride == 0
            assert (kept - plan.geometry.remainder) % stride == 0 or kept == 0


@quick
@given(plans())
def test_cores_have_all_their_context_inside_the_window(plan: TilePlan) -> None:
    stride, context = plan.geometry.stride, plan.geometry.context
    for tile in plan:
        for axis, core, window in zip(plan.axes, tile.core, tile.window, strict=True):
            first, last = axis.to_source(core.start, core.stop).span
            cell, next_cell = first // stride * stride, -(-last // stride) * stride
            if plan.geometry.padding == "same":
                assert window.start <= cell - context
                assert window.stop >= next_cell + context
            else:
                assert window.start <= first - context
                assert window.stop >= last + context


@quick
@given(plans(st.just(1.0)))
def test_no_window_is_larger_than_the_limit(plan: TilePlan) -> None:
    if plan.tile is not None:
        assert max(plan.window_shape) <= plan.tile


def test_a_small_picture_is_one_tile() -> None:
    plan = TilePlan((1, 1), Geometry(16, 94), tile=224)
    (tile,) = plan
    assert tile.core == (slice(0, 1), slice(0, 1))
    assert tile.window == (slice(-96, 112), slice(-96, 112))


@quick
@given(st.integers(1, 40), st.integers(0, 150))
def test_mirror_is_numpys_reflection_however_far(size: int, halo: int) -> None:
    padded = np.pad(np.arange(size), halo, mode="reflect" if size > 1 else "edge")
    np.testing.assert_array_equal(mirror(np.arange(-halo, size + halo), size), padded)


@quick
@given(plans(st.just(1.0)), st.integers(0, 2**32 - 1))
def test_windows_are_cut_from_the_mirrored_picture(plan: TilePlan, seed: int) -> None:
    picture = np.random.default_rng(seed).random(plan.shape, dtype=np.float32)
    border = 400
    padded = picture
    for axis, size in enumerate(plan.shape):
        width = [(0, 0), (0, 0)]
        width[axis] = (border, border)
        padded = np.pad(padded, width, mode="reflect" if size > 1 else "edge")
    for tile in plan:
        y, x = (slice(p.start + border, p.stop + border) for p in tile.window)
        found = read_tile(lambda rows, columns: picture[rows, columns], plan, tile)
        np.testing.assert_array_equal(found, padded[y, x])


@quick
@given(plans(), st.integers(0, 2**32 - 1))
def test_result_does_not_depend_on_the_tiles(plan: TilePlan, seed: int) -> None:
    """A "network" that is a pure function of place gives one picture."""
    whole = TilePlan(plan.shape, plan.geometry, plan.zoom)
    picture = np.random.default_rng(seed).random(plan.shape, dtype=np.float32)
    expected = run(whole, picture)
    found = run(plan, picture)
    np.testing.assert_allclose(found[plan.wanted], expected[plan.wanted], atol=1e-6)


def run(plan: TilePlan, picture: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.full(plan.shape, np.nan, np.float32)
    for tile in plan:
        values = read_tile(lambda y, x: picture[y, x], plan, tile)
        cut = plan.geometry.margin
        kept = values[cut : values.shape[0] - cut, cut : values.shape[1] - cut]
        out[tile.core] = core_of(kept[None], plan, tile)[0]
    return out


@quick
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
)
def test_a_ramp_stays_a_ramp_on_the_way_there_and_back(
    shape: tuple[int, int], zoom: tuple[float, float]
) -> None:
    """Pixel centres stay where they are: half a pixel would be 0.005."""
    plan = TilePlan(shape, Geometry(1, 0), zoom)
    picture = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / 100
    out = run(plan, picture.astype(np.float32))
    reach = [int(np.ceil(2 * max(1 / z, 1))) + 1 for z in zoom]
    inner = tuple(slice(r, n - r) for r, n in zip(reach, shape, strict=True))
    if out[inner].size:
        np.testing.assert_allclose(out[inner], picture[inner], atol=2.5e-3)


@quick
@given(plans())
def test_probabilities_stay_between_0_and_1(plan: TilePlan) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 2, plan.shape).astype(np.float32)
    out = run(plan, picture)[plan.wanted]
    assert out.min() >= -1e-6
    assert out.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("roi", "words"),
    [
        ((slice(0, 0), slice(0, 5)), "0:0 is empty"),
        ((slice(0, 11), slice(0, 5)), "which has 0:10"),
        ((slice(-1, 5), slice(0, 5)), "-1:5"),
    ],
)
def test_a_region_outside_is_refused(roi: tuple[slice, slice], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TilePlan((10, 10), Geometry(1, 0), roi=roi)


def test_a_tile_without_core_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 224 px.*halo 96 px.*got 223"):
        TilePlan((999, 999), Geometry(16, 94), tile=223)


@quick
@given(blended_plans())
def test_weights_of_blended_tiles_add_up_to_one(plan: TilePlan) -> None:
    total = np.zeros(plan.shape)
    for tile in plan:
        weights = tile.weights
        if weights is None:
            assert len(plan) == 1
            weights = np.ones([part.stop - part.start for part in tile.core])
        assert (weights > 0).all()
        total[tile.core] += weights
    wanted = np.zeros(plan.shape)
    wanted[plan.wanted] = 1
    np.testing.assert_allclose(total, wanted, atol=1e-6)


@quick
@given(blended_plans(), st.integers(0, 2**32 - 1))
def test_blended_tiles_keep_nothing_of_their_margin(plan: TilePlan, seed: int) -> None:
    """What lies in a window's margin may be anything, also not a number."""
    whole = TilePlan(plan.shape, plan.geometry, plan.zoom)
    picture = np.random.default_rng(seed).random(plan.shape, dtype=np.float32)
    expected = run(whole, picture)
    found = np.zeros(plan.shape, np.float32)
    for tile in plan:
        values = read_tile(lambda y, x: picture[y, x], plan, tile)
        assert values.shape == plan.window_shape
        assert min(values.shape) >= plan.geometry.smallest
        cut = plan.geometry.margin
        kept = values[cut : values.shape[0] - cut, cut : values.shape[1] - cut]
        weights = 1 if tile.weights is None else tile.weights
        found[tile.core] += weights * core_of(kept[None], plan, tile)[0]
    np.testing.assert_allclose(found[plan.wanted], expected[plan.wanted], atol=1e-5)


@quick
@given(blended_plans())
def test_blended_tiles_are_the_same_whatever_the_region(plan: TilePlan) -> None:
    whole = TilePlan(plan.shape, plan.geometry, plan.zoom, plan.tile)
    assert plan.window_shape == whole.window_shape
    seen = [tile for tile in whole if overlap(tile, plan)]
    for tile, same in zip(plan, seen, strict=True):
        assert tile.window == same.window
        offset = [
            slice(a.start - b.start, a.stop - b.start)
            for a, b in zip(tile.core, same.core, strict=True)
        ]
        if tile.weights is not None and same.weights is not None:
            np.testing.assert_array_equal(tile.weights, same.weights[tuple(offset)])


def overlap(tile: Tile, plan: TilePlan) -> bool:
    return all(
        core.start < part.stop and part.start < core.stop
        for core, part in zip(tile.core, plan.wanted, strict=True)
    )


def test_neighbours_overlap_by_the_whole_blend() -> None:
    plan = TilePlan((1, 400), Geometry(8, 32, blend=10), tile=264)
    left, right = plan
    assert left.core[1] == slice(0, 210)
    assert right.core[1] == slice(190, 400)
    assert left.weights is not None
    assert right.weights is not None
    middle = left.weights[0, 190:], right.weights[0, :20]
    assert (left.weights[0, :190] == 1).all()
    np.testing.assert_allclose(middle[0], middle[1][::-1], atol=1e-6)
    steps = np.diff(left.weights[0])
    assert (steps <= 0).all()
    assert np.abs(steps).max() < 0.1


def test_a_window_is_never_smaller_than_the_network_takes() -> None:
    geometry = Geometry(32, 32, smallest=192)
    (tile,) = TilePlan((1, 40), geometry)
    assert height_and_width(tile) == (192, 192)
    with pytest.raises(ValueError, match="tile must be at least 192 px"):
        TilePlan((500, 500), geometry, tile=160)
