"""Precomputed output, reopened by its written rules and another codec's library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import compressed_segmentation
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from napari_emseg.core.records import Provenance
from napari_emseg.io import neuroglancer_sink, open_sink, output, save_stack

SIZE = (50.0, 5.0, 4.0)


def _info(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((path / "info").read_text())
    return found


def _read(path: Path, nth: int = 0) -> np.ndarray:
    """Read a scale `(z, y, x)` chunk by chunk, as the format's page describes."""
    info = _info(path)
    scale = info["scales"][nth]
    dtype = np.dtype(info["data_type"])
    out = np.zeros(scale["size"], dtype)
    for file in (path / scale["key"]).iterdir():
        spans = [tuple(map(int, span.split("-"))) for span in file.name.split("_")]
        shape = tuple(b - a for a, b in spans)
        block = tuple(scale["compressed_segmentation_block_size"])
        values = compressed_segmentation.decompress(
            file.read_bytes(), (*shape, 1), dtype, block, order="F"
        )
        out[tuple(slice(a, b) for a, b in spans)] = values[..., 0]
    return out.transpose()


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_round_trip(tmp_path: Path, data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(["uint32", "uint64"])))
    shape = data.draw(st.tuples(st.integers(1, 40), *[st.integers(1, 20)] * 2))
    values = data.draw(arrays(dtype, shape, fill=st.just(0)))
    path = save_stack(
        tmp_path / "a.precomputed", values, voxel_size_nm=SIZE, overwrite=True
    )
    np.testing.assert_array_equal(_read(path), values, strict=True)


def test_info(tmp_path: Path, stack: np.ndarray) -> None:
    made = Provenance(kind="cells", source="em.tif")
    path = save_stack(
        tmp_path / "a.precomputed",
        stack.astype(np.uint32),
        voxel_size_nm=SIZE,
        provenance=made,
    )
    info = _info(path)
    assert info["@type"] == "neuroglancer_multiscale_volume"
    assert (info["type"], info["data_type"]) == ("segmentation", "uint32")
    (scale,) = info["scales"]
    assert scale["resolution"] == [4, 5, 50]  # x, y, z in nm
    assert scale["size"] == [33, 20, 5]
    told = json.loads((path / "provenance").read_text())
    assert told["sources"] == ["em.tif"]
    assert told["processing"][0]["emseg"]["kind"] == "cells"


def test_smaller_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neuroglancer_sink, "CHUNK_VOXELS", 1024)
    values = np.arange(4 * 37 * 50, dtype=np.uint32).reshape(4, 37, 50)
    path = save_stack(tmp_path / "a.precomputed", values, voxel_size_nm=SIZE)
    scales = _info(path)["scales"]
    assert [scale["size"] for scale in scales] == [
        [50, 37, 4],
        [25, 19, 4],
        [13, 10, 4],
    ]
    assert [scale["resolution"][0] for scale in scales] == [4, 8, 16]
    for nth in range(3):
        step = 2**nth
        np.testing.assert_array_equal(_read(path, nth), values[:, ::step, ::step])


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(order=st.permutations(range(21)))
def test_any_order(tmp_path: Path, order: list[int]) -> None:
    values = np.arange(21 * 6, dtype=np.uint64).reshape(21, 2, 3)
    with open_sink(
        tmp_path / "a.precomputed",
        values.shape,
        values.dtype,
        voxel_size_nm=SIZE,
        overwrite=True,
    ) as sink:
        for z in order:
            sink.write(z, values[z])
    np.testing.assert_array_equal(_read(tmp_path / "a.precomputed"), values)


def test_large_sections_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "SLAB_BYTES", 3 * 20 * 33 * 4)
    values = np.arange(5 * 20 * 33, dtype=np.uint32).reshape(5, 20, 33)
    path = save_stack(tmp_path / "a.precomputed", values, voxel_size_nm=SIZE)
    assert _info(path)["scales"][0]["chunk_sizes"][0][2] == 2
    np.testing.assert_array_equal(_read(path), values)


@pytest.mark.parametrize("size", [None, (None, 5, 4)])
def test_an_unknown_size_is_refused_before_any_work(tmp_path: Path, size: Any) -> None:
    with pytest.raises(ValueError, match=r"voxel size .*is unknown"):
        open_sink(tmp_path / "a.precomputed", (2, 3, 4), np.uint32, voxel_size_nm=size)
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_refused(tmp_path: Path) -> None:
    words = (
        r"takes uint32, uint64, got float32; write OME-Zarr 0\.5 \(\.zarr\) or "
        r"OME-Zarr 0\.4 \(\.zarr\), which Neuroglancer opens too$"
    )
    with pytest.raises(ValueError, match=words):
        open_sink(tmp_path / "a.precomputed", (2, 3, 4), np.float32, voxel_size_nm=SIZE)
