"""HDF5 output, reopened by h5py as ilastik, Fiji and CREMI's tools look at it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_emseg.core.records import Provenance
from napari_emseg.io import open_stack, save_stack

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"]


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_round_trip(tmp_path: Path, data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from([*DTYPES, "float64"])))
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    values = data.draw(arrays(dtype, shape))
    path = save_stack(tmp_path / "a.h5", values, overwrite=True)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["data"][()], values, strict=True)
    found = open_stack(path).data[:]
    np.testing.assert_array_equal(found, values, strict=True)


def test_axes_and_voxel_size(tmp_path: Path, stack: np.ndarray) -> None:
    made = Provenance(kind="cells")
    path = save_stack(
        tmp_path / "a.h5", stack, voxel_size_nm=(50, 5, 4), provenance=made
    )
    with h5py.File(path) as file:
        data = file["cells"]
        tags = json.loads(data.attrs["axistags"])["axes"]
        assert [tag["key"] for tag in tags] == ["z", "y", "x"]
        assert [dim.label for dim in data.dims] == ["z", "y", "x"]
        assert data.attrs["element_size_um"].tolist() == [0.05, 0.005, 0.004]
        assert data.attrs["resolution"].tolist() == [50, 5, 4]
        assert data.compression == "gzip"  # Java has no other


def test_probabilities_are_not_compressed(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((2, 40, 50), dtype=np.float32)
    path = save_stack(tmp_path / "a.h5", values)
    with h5py.File(path) as file:
        assert file["data"].compression is None
        np.testing.assert_array_equal(file["data"][:], values)


def test_an_unknown_distance_is_not_invented(tmp_path: Path, stack: np.ndarray) -> None:
    path = save_stack(tmp_path / "a.h5", stack, voxel_size_nm=(None, 5, 4))
    with h5py.File(path) as file:
        assert "element_size_um" not in file["data"].attrs
        assert "resolution" not in file["data"].attrs


def test_types_it_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes uint8.*got bool"):
        save_stack(tmp_path / "a.h5", np.ones((2, 3, 4), bool))
    assert list(tmp_path.iterdir()) == []
