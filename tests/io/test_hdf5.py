"""HDF5, written by h5py in the layouts of CREMI, Fiji and ilastik."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from napari_emseg.io import ChoiceNeeded, describe, open_stack


def test_only_dataset(tmp_path: Path, stack: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/inside"] = stack
        file["one_number"] = 3
    opened = open_stack(tmp_path / "a.h5")
    np.testing.assert_array_equal(opened.data[:], stack)
    assert opened.voxel_size_nm is None


def test_choice_of_dataset(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = stack
        file["other/labels"] = stack.astype(np.uint64)
    with pytest.raises(ChoiceNeeded, match=r"--dataset: 'other/labels'.*'raw'") as info:
        open_stack(path)
    assert info.value.option == "dataset"
    assert open_stack(path, dataset="other/labels").dtype == np.uint64
    np.testing.assert_array_equal(open_stack(path, dataset="/raw").data[:], stack)
    with pytest.raises(ChoiceNeeded, match="no dataset 'Raw'"):
        open_stack(path, dataset="Raw")
    assert {item.key for item in describe(path).items} == {"raw", "other/labels"}


def test_cremi_layout(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.hdf"
    with h5py.File(path, "w") as file:
        file["volumes/labels/neuron_ids"] = stack.astype(np.uint64)
        file["volumes/raw"] = stack
        file["volumes/raw"].attrs["resolution"] = (40.0, 5.0, 4.0)
    opened = open_stack(path)
    assert opened.dtype == np.uint8
    assert opened.voxel_size_nm == (40, 5, 4)


def test_voxel_size_of_fiji(tmp_path: Path, stack: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = stack
        file["raw"].attrs["element_size_um"] = (0.04, 0.005, 0.004)
    size = open_stack(tmp_path / "a.h5").voxel_size_nm
    assert size == pytest.approx((40, 5, 4))


def test_axes_of_ilastik(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["exported_data"] = np.stack([stack, stack + 1], axis=-1)
        tags = {"axes": [{"key": key} for key in "zyxc"]}
        file["exported_data"].attrs["axistags"] = json.dumps(tags)
    with pytest.raises(ChoiceNeeded, match="has 2 channels"):
        open_stack(path)
    opened = open_stack(path, channel=1)
    np.testing.assert_array_equal(opened.data[:], stack + 1)


def test_axes_in_another_order(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = stack.transpose(2, 1, 0)
        for dim, label in zip(file["raw"].dims, "xyz", strict=True):
            dim.label = label
    np.testing.assert_array_equal(open_stack(path).section(2), stack[2])


@pytest.mark.parametrize("chunks", [(1, 20, 33), (2, 8, 8), (5, 20, 33)])
def test_chunks_and_compression(
    tmp_path: Path, stack: np.ndarray, chunks: tuple[int, int, int]
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=stack, chunks=chunks, compression="gzip")
    opened = open_stack(tmp_path / "a.h5")
    for z in (3, 0, 4):
        np.testing.assert_array_equal(opened.section(z), stack[z])


def test_nothing_to_see(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["curve"] = np.zeros(5)
    with pytest.raises(OSError, match=r"a\.h5: has no dataset of two or more axes"):
        open_stack(tmp_path / "a.h5")


@pytest.mark.parametrize("part", [0.01, 0.4, 0.9])
def test_cut_short(tmp_path: Path, stack: np.ndarray, part: float) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = stack
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(OSError, match=r"a\.h5"):
        open_stack(path)
