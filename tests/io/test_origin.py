"""Where the first voxel lies is written, and comes back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import zarr
from napari.layers import Image

from napari_emseg._napari import layer_of, stack_of
from napari_emseg.core.records import drain
from napari_emseg.core.stack import NOWHERE, Stack
from napari_emseg.io import open_stack, save_stack
from napari_emseg.io.writing import iter_save_labelled

SIZE, AT = (50.0, 4.0, 4.0), (150.0, -32.0, 1024.5)


@pytest.fixture
def placed(stack: np.ndarray) -> Stack:
    return Stack(stack, voxel_size_nm=SIZE, origin_nm=AT)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.mrc", None), ("a.h5", None), ("a.zarr", None), ("a.zarr", "zarr-0.4")],
)
def test_it_comes_back(placed: Stack, tmp_path: Path, name: str, kind) -> None:
    path = save_stack(tmp_path / name, placed, format=kind)
    assert open_stack(path).origin_nm == AT
    plain = save_stack(tmp_path / f"b{name}", replace(placed, origin_nm=NOWHERE))
    assert open_stack(plain).origin_nm == NOWHERE


def test_other_programs_find_it(placed: Stack, tmp_path: Path) -> None:
    with mrcfile.open(save_stack(tmp_path / "a.mrc", placed)) as mrc:
        found = [float(mrc.header.origin[axis]) for axis in "zyx"]
    assert found == [10 * at for at in AT]
    with h5py.File(save_stack(tmp_path / "a.h5", placed)) as file:
        assert file["data"].attrs["offset"].tolist() == list(AT)
    notes = zarr.open_group(save_stack(tmp_path / "a.zarr", placed)).attrs["ome"]
    (level,) = notes["multiscales"][0]["datasets"]
    moves = {m["type"]: m for m in level["coordinateTransformations"]}
    assert moves["translation"]["translation"] == list(AT)


def test_origins_of_imod_have_the_other_sign(placed: Stack, tmp_path: Path) -> None:
    path = save_stack(tmp_path / "a.mrc", placed)
    with mrcfile.mmap(path, "r+") as mrc:
        extra = bytearray(mrc.header.extra2.tobytes())
        extra[44:48] = np.array([1], "<i4").tobytes()
        mrc.header.extra2 = np.void(bytes(extra))
    assert open_stack(path).origin_nm == tuple(-at for at in AT)


def test_copies_of_large_sections_lie_on_them(tmp_path: Path) -> None:
    values = np.zeros((1, 1100, 1030), np.uint8)
    large = Stack(values, voxel_size_nm=SIZE, origin_nm=AT)
    path = save_stack(tmp_path / "a.zarr", large)
    z, y, x = AT
    assert open_stack(path, level=1).origin_nm == (z, y + 2, x + 2)
    both = tmp_path / "both.zarr"
    drain(iter_save_labelled(both, large, values.astype(np.uint32)))
    assert open_stack(both, dataset="labels/cells").origin_nm == AT


def test_a_voxel_size_of_ones_own_keeps_the_distance_in_voxels(
    placed, tmp_path
) -> None:
    path = save_stack(tmp_path / "a.mrc", placed)
    wider = open_stack(path, voxel_size_nm=(50, 8, 4))
    assert wider.origin_nm == (150, -64, 1024.5)
    assert placed.corner_nm(2, 1, 0) == (250, -28, 1024.5)


def test_layers_carry_it(placed: Stack) -> None:
    data, options, _ = layer_of(placed)
    np.testing.assert_array_equal(options["translate"], AT)
    layer = Image(np.asarray(data), **options)
    assert stack_of(layer).origin_nm == AT
    layer.units = ("um",) * 3
    np.testing.assert_allclose(stack_of(layer).origin_nm, [1000 * at for at in AT])
    layer.units = ("pixel",) * 3
    assert stack_of(layer).origin_nm == NOWHERE
