"""Voxel sizes as ImageJ, OME and plain tags write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from napari_emseg.core.stack import VoxelSize
from napari_emseg.io import open_stack


def _imagej(path: Path, unit: str | None, pixel: float, spacing: float) -> VoxelSize:
    notes: dict[str, Any] = {"axes": "ZYX", "spacing": spacing}
    if unit is not None:
        notes["unit"] = unit
    tifffile.imwrite(
        path,
        np.zeros((3, 7, 5), np.uint8),
        imagej=True,
        resolution=(1 / pixel, 1 / (2 * pixel)),
        metadata=notes,
    )
    return open_stack(path).voxel_size_nm


@pytest.mark.parametrize(
    ("unit", "nm"),
    [
        ("nm", 1.0),
        ("um", 1e3),
        ("micron", 1e3),
        ("\\u00B5m", 1e3),
        ("Angstrom", 0.1),
        ("mm", 1e6),
    ],
)
def test_imagej_units(tmp_path: Path, unit: str, nm: float) -> None:
    found = _imagej(tmp_path / "a.tif", unit, 4 / nm, 50 / nm)
    assert found == pytest.approx((50, 8, 4), rel=1e-5)


def test_imagej_with_a_unit_of_its_own_for_z(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.zeros((3, 7, 5), np.uint8),
        imagej=True,
        resolution=(0.25, 0.2),
        metadata={"axes": "ZYX", "unit": "nm", "zunit": "micron", "spacing": 0.05},
    )
    assert open_stack(path).voxel_size_nm == pytest.approx((50, 5, 4))


def test_imagej_in_inches_is_for_printing(tmp_path: Path) -> None:
    assert _imagej(tmp_path / "a.tif", "inch", 1 / 72, 1) is None


@pytest.mark.parametrize("unit", ["pixel", "", None])
def test_imagej_without_a_length(tmp_path: Path, unit: str | None) -> None:
    assert _imagej(tmp_path / "a.tif", unit, 4, 50) is None


def test_the_users_voxel_size_wins(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    assert _imagej(path, "nm", 4, 50) == pytest.approx((50, 8, 4))
    assert open_stack(path, voxel_size_nm=(30, 6, 6)).voxel_size_nm == (30, 6, 6)


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ({"X": (4, "nm"), "Y": (5, "nm"), "Z": (0.05, "µm")}, (50, 5, 4)),
        ({"X": (0.004, None), "Y": (0.005, None)}, (None, 5, 4)),  # µm unless said
        ({"X": (40, "Å"), "Y": (50, "Å"), "Z": (500, "Å")}, (50, 5, 4)),
        ({"X": (1, "pixel"), "Y": (1, "pixel")}, None),
        ({"X": (4, "nm")}, None),
        ({}, None),
    ],
)
def test_ome_units(
    tmp_path: Path, notes: dict[str, Any], expected: VoxelSize | None
) -> None:
    metadata: dict[str, Any] = {"axes": "ZYX"}
    for axis, (length, unit) in notes.items():
        metadata[f"PhysicalSize{axis}"] = length
        if unit is not None:
            metadata[f"PhysicalSize{axis}Unit"] = unit
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((3, 7, 5), np.uint8), ome=True, metadata=metadata)
    found = open_stack(path).voxel_size_nm
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("per_unit", "unit", "expected"),
    [
        (72, "INCH", None),  # for printing
        (1200, "INCH", None),
        (2.54e7 / 8, "INCH", (None, 8, 8)),
        (1e7 / 8, "CENTIMETER", (None, 8, 8)),
        (8, "NONE", None),
    ],
)
def test_resolution_tags(
    tmp_path: Path, per_unit: float, unit: str, expected: VoxelSize | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.zeros((7, 5), np.uint8),
        resolution=(per_unit, per_unit),
        resolutionunit=unit,
        metadata=None,
    )
    found = open_stack(path).voxel_size_nm
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found[0] is None
        assert found[1:] == pytest.approx(expected[1:], rel=1e-4)


@pytest.mark.parametrize(
    ("notes", "expected"),
    [
        ("AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 5.582 nm", 5.582),
        ("AP_PIXEL_SIZE\r\nPixel Size = 0.01 µm", 10),
        (
            "AP_PIXEL_SIZE\r\nPixel Size = 9 nm\r\n"
            "AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 5 nm",
            5,
        ),
        ("1\r\n2\r\n3\r\n4e-9", 4 * 1024 / 64),
        ("AP_MAG\r\nMag = 10.00 K X", None),
    ],
)
def test_pixel_size_of_zeiss(
    tmp_path: Path, notes: str, expected: float | None
) -> None:
    raw = (notes + "\r\n").encode("cp1252")
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.zeros((9, 64), np.uint8),
        extratags=[(34118, "s", len(raw), raw, True)],
        resolution=(72, 72),
        resolutionunit="inch",
    )
    found = open_stack(path).voxel_size_nm
    size = None if expected is None else (None, expected, expected)
    assert found == (None if size is None else pytest.approx(size))


def test_pixel_size_of_gatan(tmp_path: Path) -> None:
    tags: list[Any] = [
        (65003, "s", 3, "nm", True),
        (65004, "s", 3, "um", True),
        (65009, "d", 1, 4.0, True),
        (65010, "d", 1, 0.005, True),
    ]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((9, 64), np.uint8), extratags=tags)
    assert open_stack(path).voxel_size_nm == pytest.approx((None, 5, 4))
    tifffile.imwrite(path, np.zeros((9, 64), np.uint8), extratags=tags[:2])
    assert open_stack(path).voxel_size_nm is None
