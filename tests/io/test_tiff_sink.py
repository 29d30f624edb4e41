"""TIFF output, reopened by tifffile and PIL."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from napari_emseg.core.records import Provenance
from napari_emseg.io import (
    open_sink,
    open_stack,
    read_provenance,
    save_stack,
    tiff_sink,
)

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"]
MADE = Provenance(kind="membrane", weights="isbi2012-unet", threshold=0.4, scale=255)


def _imagej(path: Path) -> dict[str, Any]:
    with tifffile.TiffFile(path) as tif:
        return dict(tif.imagej_metadata or {})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip(tmp_path: Path, data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    values = data.draw(arrays(dtype, shape))
    path = save_stack(tmp_path / "a.tif", values, overwrite=True)
    np.testing.assert_array_equal(
        tifffile.imread(path).reshape(shape), values, strict=True
    )
    np.testing.assert_array_equal(open_stack(path).data[:], values, strict=True)


def test_opened_by_pil(tmp_path: Path, stack: np.ndarray) -> None:
    save_stack(tmp_path / "a.tif", stack)
    with Image.open(tmp_path / "a.tif") as picture:
        np.testing.assert_array_equal(np.asarray(picture), stack[0])


def test_calibration_of_imagej(tmp_path: Path, stack: np.ndarray) -> None:
    path = save_stack(tmp_path / "a.tif", stack, voxel_size_nm=(50, 5, 4))
    found = _imagej(path)
    assert found["unit"] == "nm"
    assert found["spacing"] == 50
    assert found["slices"] == 5
    with tifffile.TiffFile(path) as tif:
        assert tif.is_imagej
        assert not tif.is_bigtiff
        x, y = (tif.pages.first.tags[f"{a}Resolution"].value for a in "XY")
    assert (x[1] / x[0], y[1] / y[0]) == pytest.approx((4, 5))
    assert open_stack(path).voxel_size_nm == pytest.approx((50, 5, 4))


@pytest.mark.parametrize("size", [None, (None, 5, 4), (0.05, 4.6, 4.6)])
def test_voxel_size_comes_back(tmp_path: Path, stack: np.ndarray, size: Any) -> None:
    path = save_stack(tmp_path / "a.tif", stack, voxel_size_nm=size)
    found = open_stack(path).voxel_size_nm
    assert found == (None if size is None else pytest.approx(size))


def test_provenance_under_info(tmp_path: Path, stack: np.ndarray) -> None:
    path = save_stack(tmp_path / "a.tif", stack, provenance=MADE)
    assert json.loads(_imagej(path)["Info"])["emseg"]["weights"] == "isbi2012-unet"
    assert read_provenance(path) == MADE


def test_any_order_and_unwritten_sections(tmp_path: Path, stack: np.ndarray) -> None:
    with open_sink(tmp_path / "a.tif", stack.shape, stack.dtype) as sink:
        for z in (4, 0, 2):
            sink.write(z, stack[z])
        assert not (tmp_path / "a.tif").exists()
    expected = stack.copy()
    expected[[1, 3]] = 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]


@pytest.mark.parametrize("dtype", ["uint8", "uint64"])
def test_bigtiff_beyond_the_limit(
    tmp_path: Path, stack: np.ndarray, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(tiff_sink, "CLASSIC_LIMIT", 1000)
    values = stack.astype(dtype)
    path = save_stack(
        tmp_path / "a.tif", values, voxel_size_nm=(50, 5, 4), provenance=MADE
    )
    with tifffile.TiffFile(path) as tif:
        assert tif.is_bigtiff
        np.testing.assert_array_equal(tif.series[0].asarray(), values)
    assert open_stack(path).voxel_size_nm == pytest.approx((50, 5, 4))
    assert read_provenance(path) == MADE


@pytest.mark.parametrize(
    ("form", "dtype"), [("tiff", "float32"), ("tiff", "uint64"), ("fiji", "float32")]
)
def test_settings_are_told_anew_beyond_the_limit(
    tmp_path: Path, stack: np.ndarray, monkeypatch, form: str, dtype: str
) -> None:
    monkeypatch.setattr(tiff_sink, "CLASSIC_LIMIT", 1000)
    made = MADE.model_copy(update={"source": "a & <b>.tif", "settings": {"x": 1}})
    values = stack.astype(dtype)
    with open_sink(
        *(tmp_path / "a.tif", values.shape, values.dtype), provenance=made, format=form
    ) as sink:
        sink.note_settings({"precision": "int8"})
        for z, section in enumerate(values):
            sink.write(z, section)
        sink.note_settings({"precision": "int8, then float32"})
    found = read_provenance(tmp_path / "a.tif")
    assert found is not None
    assert found.source == made.source
    assert found.settings == {"x": 1, "precision": "int8, then float32"}
    np.testing.assert_array_equal(open_stack(tmp_path / "a.tif").data[:], values)


def test_5_gib_are_laid_out_without_writing_them(tmp_path: Path) -> None:
    shape = (80, 2**13, 2**13)
    try:
        sink = open_sink(tmp_path / "a.tif", shape, np.uint8)
    except OSError as e:
        assert e.errno == errno.ENOSPC  # noqa: PT017
        pytest.skip(str(e))
    with sink:
        sink.write(79, np.full(shape[1:], 7, np.uint8))
    opened = open_stack(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_bigtiff
    assert opened.shape == shape
    assert opened.data[79, -1, -3:].tolist() == [7, 7, 7]
    (tmp_path / "a.tif").unlink()


@pytest.mark.parametrize("dtype", ["float64", "bool", "complex64", "float16"])
def test_types_it_does_not_take(tmp_path: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=rf"takes uint8.*got {dtype}"):
        open_sink(tmp_path / "a.tif", (2, 3, 4), dtype)
    assert list(tmp_path.iterdir()) == []


class Full:
    """A file on a disk that is full after some writes."""

    def __init__(self, file: Any, left: int) -> None:
        self._file, self._left = file, left

    def write(self, values: Any) -> int:
        if self._left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._left -= 1
        return int(self._file.write(values))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_disk_full_keeps_finished_sections(tmp_path: Path, stack: np.ndarray) -> None:
    sink = open_sink(tmp_path / "a.tif", stack.shape, stack.dtype)
    sink._file = Full(sink._file, 2)  # type: ignore[attr-defined]

    def fill() -> None:
        with sink:
            for z, section in enumerate(stack):
                sink.write(z, section)

    with pytest.raises(OSError, match="no space"):
        fill()
    assert not (tmp_path / "a.tif").exists()
    kept = tifffile.imread(next(tmp_path.glob("a.tif.*.part")))
    np.testing.assert_array_equal(kept[:2], stack[:2])
    assert not kept[2:].any()


def test_no_space_is_told_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"not enough space.*needs 0\.1 GB") as info:
        open_sink(tmp_path / "a.tif", (100, 1000, 1000), np.uint8)
    assert info.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_what_an_ended_run_left_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes when the same output is written again, so it mustn't prevent that."""
    shape = (4, 300, 300)
    sink = open_sink(tmp_path / "a.tif", shape, np.uint8)
    for z in range(4):
        sink.write(z, np.full(shape[1:], z, np.uint8))
    kept = sink.abort(keep=True)
    assert kept is not None
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="not enough space"):
        open_sink(tmp_path / "b.tif", shape, np.uint8)
    with pytest.raises(OSError, match="not enough space"):
        open_sink(tmp_path / "a.tif", (40, 300, 300), np.uint8)
    assert kept.is_file()
    open_sink(tmp_path / "a.tif", shape, np.uint8).abort()
    assert not kept.exists()


IMAGEJ = ["uint8", "uint16", "int16", "float32"]


@pytest.mark.parametrize("limit", [2**32, 200])
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_imagej_finds_all_sections_behind_the_first(
    tmp_path: Path, limit: int, data: st.DataObject
) -> None:
    """As ImageJ does it: `images=` in the first page's notes, then plain values."""
    dtype = np.dtype(data.draw(st.sampled_from(IMAGEJ)))
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    values = data.draw(arrays(dtype, shape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff_sink, "CLASSIC_LIMIT", limit)
        path = save_stack(tmp_path / "a.tif", values, format="fiji", overwrite=True)
    with Image.open(path) as picture:  # tags by another library
        notes = str(picture.tag_v2[270])
        start = picture.tag_v2[273][0]
        assert picture.tag_v2[256], picture.tag_v2[257] == shape[:0:-1]
    assert path.read_bytes()[2] == 42  # a classic TIFF; BigTIFF has 43
    images = [line for line in notes.splitlines() if line.startswith("images=")]
    assert images == ([f"images={shape[0]}"] if shape[0] > 1 else images)
    found = np.fromfile(path, dtype, values.size, offset=start).reshape(shape)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(open_stack(path).data[:], values)


def test_imagej_shows_probabilities_from_0_to_1(tmp_path: Path) -> None:
    values = np.full((2, 3, 4), 0.5, np.float32)
    path = save_stack(
        tmp_path / "a.tif",
        values,
        voxel_size_nm=(50, 5, 4),
        provenance=MADE.model_copy(update={"scale": 1.0}),
        format="fiji",
    )
    found = _imagej(path)
    assert (found["min"], found["max"]) == (0, 1)
    assert (found["unit"], found["spacing"]) == ("nm", 50)


def test_imagej_beyond_4_gib(tmp_path: Path) -> None:
    shape = (80, 2**13, 2**13)
    try:
        sink = open_sink(tmp_path / "a.tif", shape, np.uint8, format="fiji")
    except OSError as e:
        assert e.errno == errno.ENOSPC  # noqa: PT017
        pytest.skip(str(e))
    with sink:
        sink.write(79, np.full(shape[1:], 7, np.uint8))
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert not tif.is_bigtiff
        assert tif.is_imagej
        assert tif.series[0].shape == shape
    opened = open_stack(tmp_path / "a.tif")
    assert opened.shape == shape
    assert opened.data[79, -1, -3:].tolist() == [7, 7, 7]
    (tmp_path / "a.tif").unlink()


def test_types_imagej_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes uint8, uint16.*got float64"):
        open_sink(tmp_path / "a.tif", (2, 3, 4), "float64", format="fiji")
