"""The one rule for grey values: what counts, what padding is, what a network sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage as ndi

from napari_emseg.core.intensity import (
    GreyRange,
    normalise,
    padding,
    section_range,
    stack_range,
)
from napari_emseg.core.padding import find_padding
from napari_emseg.core.settings import Normalisation
from napari_emseg.core.stack import Stack
from napari_emseg.sample import vnc

RULE = Normalisation()
DTYPES = [
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "float16",
    "float32",
    "float64",
]


def rotated(dtype: str, fill: float) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return noise turned by 20° in a frame of `fill`, and where the frame is."""
    inside = np.ones((90, 110))
    frame = ndi.rotate(inside, 20, reshape=True, order=0) == 0
    noise = np.random.default_rng(1).integers(20, 100, frame.shape).astype(dtype)
    noise[frame] = fill
    return noise, frame


@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        ("uint8", 0),
        ("uint8", 255),
        ("uint16", 0),
        ("uint16", 65535),
        ("int16", 0),
        ("int16", -32768),
        ("float32", 0),
        ("float32", np.nan),
    ],
)
def test_frame_of_a_rotated_section(dtype: str, fill: float) -> None:
    section, frame = rotated(dtype, fill)
    found = padding(section)
    assert found is not None
    np.testing.assert_array_equal(found, frame)
    own = section[~frame]
    grey = section_range(section, RULE, found)
    assert (grey.low, grey.high) == pytest.approx(tuple(np.percentile(own, (1, 99))))


@pytest.mark.parametrize("dtype", DTYPES)
def test_noise_has_no_padding(dtype: str) -> None:
    noise = np.random.default_rng(0).integers(20, 100, (64, 64)).astype(dtype)
    assert padding(noise) is None


def test_a_constant_area_away_from_the_border_is_no_padding() -> None:
    section = np.random.default_rng(0).integers(1, 255, (64, 64)).astype(np.uint8)
    section[20:50, 20:50] = 0
    assert padding(section) is None


def test_a_constant_area_of_another_value_is_no_padding() -> None:
    section = np.random.default_rng(0).integers(1, 255, (64, 64)).astype(np.uint8)
    section[:20] = 128
    assert padding(section) is None


def test_nan_anywhere_is_left_out() -> None:
    section = np.random.default_rng(0).random((64, 64), dtype=np.float32) + 1
    section[30, 31] = np.nan
    section[40, 41] = np.inf
    found = padding(section)
    assert found is not None
    assert sorted(zip(*np.nonzero(found), strict=True)) == [(30, 31), (40, 41)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_section_is_blank(dtype: str, value: int) -> None:
    section = np.full((40, 30), value, dtype)
    mask = padding(section)
    grey = section_range(section, RULE, mask)
    assert grey.blank
    assert (mask is not None and mask.all()) == (value == 0)
    np.testing.assert_array_equal(normalise(section, grey), np.float32(0.5))


def test_all_nan_is_blank() -> None:
    section = np.full((40, 30), np.nan, np.float32)
    assert section_range(section, RULE, padding(section)).blank


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (3, 4)])
def test_tiny_sections(shape: tuple[int, int]) -> None:
    section = np.arange(1, np.prod(shape) + 1, dtype=np.uint8).reshape(shape)
    assert padding(section) is None
    assert section_range(section, RULE).blank == (section.size == 1)


def test_a_few_bright_pixels_on_a_flat_ground_are_something() -> None:
    section = np.full((64, 64), 10, np.uint8)
    section[5, 5] = 90
    assert section_range(section, RULE) == GreyRange(10, 90)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(DTYPES),
    st.floats(0, 49),
    st.floats(51, 100),
)
def test_range_is_numpys_percentiles(
    seed: int, dtype: str, low: float, high: float
) -> None:
    rng = np.random.default_rng(seed)
    section = rng.integers(0, rng.integers(2, 120), (11, 13)).astype(dtype)
    rule = Normalisation(low_percentile=low, high_percentile=high)
    expected = np.percentile(section.astype(np.float64), (low, high))
    if expected[1] <= expected[0]:
        expected = np.array([section.min(), section.max()], float)
    grey = section_range(section, rule)
    np.testing.assert_allclose((grey.low, grey.high), expected, rtol=1e-5, atol=1e-5)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(1, 30),
    st.integers(2, 40),
)
def test_padding_by_its_definition(
    seed: int, height: int, width: int, block: int
) -> None:
    """Every 4-connected area that touches a broad part which touches the border.

    It is the same when the section is looked at in blocks.
    """
    rng = np.random.default_rng(seed)
    smooth = ndi.gaussian_filter(rng.random((height, width)), rng.choice([1, 2, 4]))
    same = smooth > np.quantile(smooth, rng.random())
    section = np.where(same, 0, 77).astype(np.uint8)
    side = min(7, height, width)
    wide = np.pad(same, side, mode="edge")
    square = np.ones((side, side), bool)
    broad = ndi.binary_opening(wide, square)[side:-side, side:-side]
    border = np.zeros_like(same)
    border[[0, -1]] = border[:, [0, -1]] = True
    seeds = ndi.binary_propagation(broad & border, mask=broad)
    parts, n = ndi.label(ndi.binary_propagation(seeds, mask=same))
    large = [k for k in range(1, n + 1) if (parts == k).sum() >= side**2]
    expected = np.isin(parts, large)
    found = padding(section)
    parts = find_padding(
        lambda y, x: section[y, x], (height, width), section.dtype, side=block
    )
    if expected.any() and _has_run_at_border(same, side):
        assert found is not None
        assert parts is not None
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(parts.mask(slice(None), slice(None)), expected)
        some = slice(height // 3, None, 3), slice(width // 4, width - 1, 2)
        np.testing.assert_array_equal(parts.mask(*some), expected[some])
    else:
        assert found is None
        assert parts is None


def _has_run_at_border(same: NDArray[np.bool_], side: int) -> bool:
    edges = [same[0], same[-1], same[:, 0], same[:, -1]]
    runs = ("".join("x" if hit else "." for hit in edge) for edge in edges)
    return any(
        "x" * min(7, len(edge)) in run for edge, run in zip(edges, runs, strict=True)
    )


@given(st.sampled_from(DTYPES), st.booleans())
def test_normalised_values(dtype: str, invert: bool) -> None:
    section = np.array([[20, 30, 40, 60, 120]], dtype)
    seen = normalise(section, GreyRange(20, 60), invert=invert)
    expected = np.array([[0, 0.25, 0.5, 1, 1.5]], np.float32)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, 1 - expected if invert else expected, rtol=1e-5)


def test_missing_values_become_the_middle() -> None:
    section = np.array([[np.nan, 1, np.inf, -np.inf]], np.float32)
    seen = normalise(section, GreyRange(0, 1))
    np.testing.assert_array_equal(seen, np.array([[0.5, 1, 1.5, -0.5]], np.float32))


def test_padding_does_not_move_the_statistics_of_real_em() -> None:
    section = vnc().section(0)
    framed = np.pad(section, 60)
    assert section_range(framed, RULE, padding(framed)) == section_range(section, RULE)
    assert section_range(framed, RULE) != section_range(section, RULE)


class Torn:
    """A stack of three sections whose second can't be read."""

    shape = (3, 20, 20)
    dtype = np.dtype(np.uint8)

    def __getitem__(self, z: int) -> NDArray[np.uint8]:
        if z == 1:
            msg = "torn"
            raise OSError(msg)
        return np.linspace(50 * z, 50 * z + 100, 400).astype(np.uint8).reshape(20, 20)


def test_stack_range_passes_over_what_it_cannot_read() -> None:
    data = Torn()
    both = np.concatenate([data[0].ravel(), data[2].ravel()])
    grey = stack_range(Stack(data), RULE)
    assert (grey.low, grey.high) == pytest.approx(tuple(np.percentile(both, (1, 99))))


def test_a_stack_of_nothing_is_blank() -> None:
    assert stack_range(Stack(np.zeros((4, 30, 30), np.uint8)), RULE).blank


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("scale", "offset", "dtype"),
    [
        (1e300, 0, "float64"),
        (1.7e308, -0.85e308, "float64"),
        (1e-300, 0, "float64"),
        (1e-310, 0, "float64"),
        (1, 1e12, "float64"),
        (3e38, -1.5e38, "float32"),
        (1e-38, 0, "float32"),
        (2**25, 2**30, "int32"),
        (2**50, -(2**60), "int64"),
        (2**50, 2**63, "uint64"),
    ],
)
def test_any_size_of_grey_values_is_seen_alike(
    scale: float, offset: float, dtype: str
) -> None:
    grey = np.random.default_rng(0).random((60, 70))
    usual = normalise(grey, section_range(grey, RULE))
    values = (grey * scale + offset).astype(dtype)
    seen = normalise(values, section_range(values, RULE))
    np.testing.assert_allclose(seen, usual, atol=1e-4)
    assert padding(values) is None


def test_extreme_values_are_clipped_and_not_finite_ones_become_grey() -> None:
    values = np.array([[-np.inf, -1e300, 0.0, 5e299, 1e300, 1.7e308, np.inf, np.nan]])
    seen = normalise(values, GreyRange(0.0, 1e300))
    np.testing.assert_allclose(seen, [[-0.5, -0.5, 0, 0.5, 1, 1.5, 1.5, 0.5]])
