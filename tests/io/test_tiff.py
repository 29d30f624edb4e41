"""TIFF in its many forms, written here by tifffile and PIL, read by `open_stack`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_emseg.io import ChoiceNeeded, open_stack


@pytest.fixture
def stack() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (5, 20, 33), dtype=np.uint8)


def test_imagej_voxel_size(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        stack,
        imagej=True,
        resolution=(1 / 0.004, 1 / 0.005),
        metadata={"unit": "um", "spacing": 0.05, "axes": "ZYX"},
    )
    opened = open_stack(path)
    np.testing.assert_array_equal(opened.data[:], stack)
    assert opened.voxel_size_nm == pytest.approx((50, 5, 4))
    assert open_stack(path, voxel_size_nm=(30, 6, 6)).voxel_size_nm == (30, 6, 6)


def test_pil_multipage(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    opened = open_stack(path)
    assert opened.voxel_size_nm is None
    np.testing.assert_array_equal(opened.section(3), stack[3])


def test_unlike_pages_are_named(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for page in [*stack[:3], stack[3, :10], stack[4]]:
            tif.write(page, metadata=None, photometric="minisblack")
    with pytest.raises(ChoiceNeeded, match=r"a\.tif: .*page 3 is \(10, 33\)") as info:
        open_stack(path)
    assert info.value.option == "series"
