"""OME-Zarr output, reopened by zarr and validated by yaozarrs."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaozarrs
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from yaozarrs import v05

from napari_emseg.core.records import Provenance, drain
from napari_emseg.core.settings import CellSettings
from napari_emseg.core.stack import as_stack
from napari_emseg.io import (
    open_sink,
    open_stack,
    output,
    read_provenance,
    save_stack,
    zarr_sink,
)
from napari_emseg.io.writing import iter_save_labelled
from napari_emseg.segmentation import cells_provenance

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64"]
DTYPES += ["float32", "float64", "bool"]


# coarser levels are means, of values near the largest there are as well
@pytest.mark.filterwarnings("ignore:overflow encountered in reduce")
@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_round_trip(tmp_path: Path, data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * 3))
    values = data.draw(arrays(dtype, shape))
    path = save_stack(tmp_path / "a.zarr", values, overwrite=True)
    np.testing.assert_array_equal(zarr.open(path)["0"][:], values, strict=True)
    np.testing.assert_array_equal(open_stack(path).data[:], values, strict=True)


def _image(path: Path) -> v05.Image:
    notes = yaozarrs.validate_ome_object(dict(zarr.open_group(path).attrs["ome"]))
    assert isinstance(notes, v05.Image)
    return notes


@pytest.mark.parametrize("size", [None, (None, 5, 4), (50, 5, 4)])
def test_notes_of_version_0_5(tmp_path: Path, stack: np.ndarray, size: Any) -> None:
    path = save_stack(tmp_path / "a.zarr", stack, voxel_size_nm=size)
    yaozarrs.validate_zarr_store(path)
    multiscale = _image(path).multiscales[0]
    assert [axis.name for axis in multiscale.axes] == ["z", "y", "x"]
    lengths = size or (None, None, None)
    units = [None if n is None else "nanometer" for n in lengths]
    assert [axis.unit for axis in multiscale.axes] == units
    scale = multiscale.datasets[0].coordinateTransformations[0].scale
    assert scale == [1.0 if n is None else n for n in lengths]
    assert open_stack(path).voxel_size_nm == size


def test_provenance(tmp_path: Path, stack: np.ndarray) -> None:
    made = Provenance(kind="cells", threshold=0.4)
    path = save_stack(tmp_path / "a.zarr", stack, provenance=made)
    assert zarr.open_group(path).attrs["emseg"]["kind"] == "cells"
    assert read_provenance(path) == made


def test_any_order_and_unwritten_sections(tmp_path: Path, stack: np.ndarray) -> None:
    with open_sink(tmp_path / "a.zarr", stack.shape, stack.dtype) as sink:
        for z in (4, 0, 2):
            sink.write(z, stack[z])
        assert not (tmp_path / "a.zarr").exists()
    expected = stack.copy()
    expected[[1, 3]] = 0
    np.testing.assert_array_equal(zarr.open(tmp_path / "a.zarr")["0"][:], expected)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "uint32"])
def test_smaller_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr(zarr_sink.ZarrSink, "most", (1, 16, 16))
    values = np.arange(2 * 21 * 50).reshape(2, 21, 50).astype(dtype)
    path = save_stack(tmp_path / "a.zarr", values, voxel_size_nm=(50, 4, 4))
    yaozarrs.validate_zarr_store(path)
    found = [open_stack(path, level=n) for n in range(3)]
    assert [one.shape for one in found] == [(2, 21, 50), (2, 11, 25), (2, 6, 13)]
    assert found[2].voxel_size_nm == pytest.approx((50, 16, 16))
    small = found[1].section(1)
    if dtype == "uint32":  # ids can't be averaged
        np.testing.assert_array_equal(small, values[1, ::2, ::2])
    else:
        mean = values[1, 4:6, 10:12].astype(float).mean()
        assert small[2, 5] == pytest.approx(mean, abs=0.51)
    moves = _image(path).multiscales[0].datasets[1].coordinateTransformations
    assert moves[1].translation == [0, *[0 if dtype == "uint32" else 2] * 2]


def test_disk_full_keeps_finished_sections(tmp_path: Path, stack: np.ndarray) -> None:
    sink = open_sink(tmp_path / "a.zarr", stack.shape, stack.dtype)

    class Full:
        def __setitem__(self, z: int, values: np.ndarray) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def fill() -> None:
        with sink:
            sink.write(0, stack[0])
            sink._levels = [Full()]  # type: ignore[attr-defined]
            sink.write(1, stack[1])

    with pytest.raises(OSError, match="no space"):
        fill()
    assert not (tmp_path / "a.zarr").exists()
    kept = zarr.open(next(tmp_path.glob("a.zarr.*.part")))["0"]
    np.testing.assert_array_equal(kept[0], stack[0])
    assert not kept[1:].any()


def test_a_folder_of_something_else_is_never_replaced(
    tmp_path: Path, stack: np.ndarray
) -> None:
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="folder of something else"):
        save_stack(tmp_path / "a.zarr", stack, overwrite=True)
    (tmp_path / "b.zarr.part").mkdir()
    (tmp_path / "b.zarr.part" / "thesis.txt").write_text("years of work")
    save_stack(tmp_path / "b.zarr", stack)
    assert (tmp_path / "a.zarr" / "thesis.txt").exists()
    assert (tmp_path / "b.zarr.part" / "thesis.txt").exists()


class TestChunksForViewsFromTheSide:
    def test_as_deep_as_sections_allow(self, tmp_path: Path) -> None:
        values = np.arange(20 * 300 * 40, dtype=np.uint16).reshape(20, 300, 40)
        path = save_stack(tmp_path / "a.zarr", values, format="zarr-3d")
        levels = zarr.open_group(path)
        assert levels["0"].chunks == (16, 256, 40)
        assert levels["1"].shape == (20, 150, 20)  # until a chunk holds a section
        np.testing.assert_array_equal(levels["0"][:], values)
        np.testing.assert_array_equal(open_stack(path).data[:], values)

    def test_less_deep_where_sections_are_large(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(output, "SLAB_BYTES", 5 * 30 * 30)
        sink = open_sink(tmp_path / "a.zarr", (20, 30, 30), np.uint8, format="zarr-3d")
        sink.close()
        assert zarr.open(tmp_path / "a.zarr")["0"].chunks == (4, 30, 30)

    def test_sections_in_any_order(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        values = rng.integers(0, 99, (40, 7, 9), dtype=np.uint32)
        order = rng.permutation(40)[:-3]  # three are never written
        with open_sink(
            tmp_path / "a.zarr", values.shape, values.dtype, format="zarr-3d"
        ) as sink:
            for z in order:
                sink.write(int(z), values[z])
        expected = np.zeros_like(values)
        expected[order] = values[order]
        np.testing.assert_array_equal(zarr.open(tmp_path / "a.zarr")["0"][:], expected)

    @pytest.mark.parametrize(
        ("link", "depth"), [(True, 16), (False, 1)], ids=["linked", "not linked"]
    )
    def test_is_what_linked_cells_are_written_in(
        self, tmp_path: Path, link: bool, depth: int
    ) -> None:
        made = cells_provenance(CellSettings(link=link))
        cells = np.ones((17, 5, 5), np.uint32)
        path = save_stack(tmp_path / "a.zarr", cells, provenance=made)
        assert zarr.open(path)["0"].chunks == (depth, 5, 5)
        flat = save_stack(tmp_path / "b.zarr", cells, provenance=made, format="zarr")
        assert zarr.open(flat)["0"].chunks == (1, 5, 5)

    def test_picture_and_cells_in_one(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(1)
        image = rng.integers(0, 255, (19, 6, 8), dtype=np.uint8)
        cells = rng.integers(0, 9, (19, 6, 8), dtype=np.uint32)
        path = drain(
            iter_save_labelled(
                tmp_path / "a.zarr", as_stack(image), cells, format="zarr-3d"
            )
        )
        group = zarr.open_group(path)
        for name, values in (("0", image), ("labels/cells/0", cells)):
            assert group[name].chunks == (16, 6, 8)
            np.testing.assert_array_equal(group[name][:], values)
