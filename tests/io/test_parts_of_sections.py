"""Parts of sections are read without the rest, where a file's chunks allow it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
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


def written(kind: str, values: np.ndarray, path: Path) -> Path:
    """Write a TIFF, MRC or npy whose parts can be read."""
    options = {
        "raw": {"contiguous": True},
        "raw, others between": {},
        "tiles": {"tile": (32, 48)},
        "packed tiles": {"tile": (32, 48), "compression": "zlib", "predictor": True},
        "lzw strips": {"rowsperstrip": 7, "compression": "lzw"},
        "white is low": {"tile": (32, 48), "photometric": "miniswhite"},
    }
    if kind == "mrc":
        return save_stack(path.with_suffix(".mrc"), values.astype(values.dtype.str[1:]))
    if kind == "npy":
        np.save(path.with_suffix(".npy"), values)
        return path.with_suffix(".npy")
    with tifffile.TiffWriter(path.with_suffix(".tif")) as tif:
        for section in values:
            chosen = {"photometric": "minisblack", "contiguous": False, **options[kind]}
            tif.write(section, metadata=None, **chosen)
    return path.with_suffix(".tif")


KINDS = (
    "raw",
    "raw, others between",
    "tiles",
    "packed tiles",
    "lzw strips",
    "white is low",
    "mrc",
    "npy",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["u1", ">u2"])
def test_parts_of_tiff_mrc_and_npy(values, tmp_path, kind: str, dtype: str) -> None:
    stored = values.astype(dtype)
    stack = open_stack(written(kind, stored, tmp_path / "a"))
    whole = np.asarray(stack.data[:])
    top = np.iinfo(stored.dtype).max
    expected = top - stored if kind == "white is low" else stored
    np.testing.assert_array_equal(whole, expected)
    assert stack.data.chunks[1:] != values.shape[1:]
    for key in [
        (1, slice(10, 40), slice(5, 110)),
        (2, slice(31, 33), slice(47, 49)),
        (0, slice(None), slice(100, None)),
        (0, slice(64, 90), slice(None)),
        (1, slice(3, 80, 7), slice(None, None, 5)),
    ]:
        part = stack.data[key]
        np.testing.assert_array_equal(part, whole[key])
        assert part.dtype == whole.dtype


def test_only_tiles_that_are_asked_for_are_decoded(values, tmp_path) -> None:
    path = written("packed tiles", values, tmp_path / "a")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[1].dataoffsets[-1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"damaged")
    stack = open_stack(path)
    np.testing.assert_array_equal(stack.data[1, :64, :96], values[1, :64, :96])
    with pytest.raises(OSError, match="section 1"):
        stack.data[1, 60:70, 90:100]


def test_a_section_in_one_piece_is_decoded_once(values, tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, values, compression="zlib", rowsperstrip=90, photometric="minisblack"
    )
    monkeypatch.setattr(sections, "KEPT_BYTES", 1000)
    stack, read = open_stack(path), []
    load = stack.data._load
    monkeypatch.setattr(stack.data, "_load", lambda *z: (read.append(z), load(*z))[1])
    assert stack.data.chunks == (1, 90, 110)
    for z in (0, 0, 1, 1):
        part = stack.data[z, 5:9, 7:70]
        np.testing.assert_array_equal(part, values[z, 5:9, 7:70])
        part[:] = 0
    assert read == [(0, 1), (1, 2)]
