"""Parts of sections are read without the rest, where a file's chunks allow it."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from napari_emseg.io import open_stack, save_stack, sections


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (3, 90, 110)).astype(np.uint8)


@pytest.mark.parametrize(
    "key",
    [
        (1, slice(10, 40), slice(5, 110)),
        (2, slice(None), slice(3, 4)),
        (0, slice(None, None, 7), slice(None, None, 3)),
        (0, slice(80, 3, -2), slice(None)),
        (1, slice(5, 5), slice(None)),
        (-1, slice(None), slice(None)),
        (slice(1, 3), slice(10, 40), slice(5, 110)),
        (1, 4, slice(2, 9)),
    ],
)
def test_parts_are_those_of_the_array(values, tmp_path, monkeypatch, key) -> None:
    monkeypatch.setattr(sections, "BAND_BYTES", 2000)
    array = zarr.create_array(
        tmp_path / "a.zarr",
        data=values,
        chunks=(1, 32, 32),
        dimension_names=("z", "y", "x"),
    )
    opened = open_stack(tmp_path / "a.zarr")
    assert array.shape == opened.shape
    np.testing.assert_array_equal(opened.data[key], values[key])


def test_only_chunks_that_are_asked_for_are_read(values, tmp_path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(
        path, data=values, chunks=(1, 32, 32), dimension_names=("z", "y", "x")
    )
    (path / "c" / "1" / "2" / "3").write_bytes(b"damaged")
    stack = open_stack(path)
    assert stack.data.chunks == (1, 32, 32)
    np.testing.assert_array_equal(stack.data[1, :64, :96], values[1, :64, :96])
    with pytest.raises(OSError, match="section 1"):
        stack.data[1, 60:70, 90:100]


def test_a_zarr_is_opened_by_its_url(values, tmp_path) -> None:
    path = tmp_path / "a.zarr"
    save_stack(path, values, voxel_size_nm=(40, 4, 4))
    stack = open_stack(f"file://{path}")
    assert stack.voxel_size_nm == (40, 4, 4)
    assert stack.name == "a"
    np.testing.assert_array_equal(stack.section(2), values[2])
    np.testing.assert_array_equal(stack.data[0, 5:9, 7:70], values[0, 5:9, 7:70])


@pytest.mark.parametrize("url", ["file:///nowhere/a.zarr", "nonsense://host/a.zarr"])
def test_what_is_not_at_a_url_is_said(url: str) -> None:
    with pytest.raises(OSError, match=r"a\.zarr"):
        open_stack(url)
