"""DM3 and DM4, with the tags that a picture needs written here byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_emseg.io import AmbiguousFileError, open_stack

Tags = dict[str, Any]
"""A group of tags; keys that begin with a blank have no name in the file."""

GATAN = {"i2": 1, "f4": 2, "u1": 6, "i4": 7, "i1": 9, "u2": 10, "u4": 11, "f8": 12}
ELEMENT = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "i1": 9, "u1": 10}


class Writer:
    """Encodes tags as DM3 (32-bit lengths) or DM4 (64-bit lengths)."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.long = ">Q" if version == 4 else ">I"

    def file(self, tags: Tags) -> bytes:
        body = self.group(tags) + bytes(8)
        size = struct.pack(self.long, len(body))
        return struct.pack(">I", self.version) + size + struct.pack(">I", 1) + body

    def group(self, tags: Tags) -> bytes:
        head = b"\1\0" + struct.pack(self.long, len(tags))
        return head + b"".join(self.tag(name, v) for name, v in tags.items())

    def tag(self, name: str, value: Any) -> bytes:
        letters = name.strip().encode()
        kind = 20 if isinstance(value, dict) else 21
        body = self.group(value) if kind == 20 else self.value(value)
        size = struct.pack(">Q", len(body)) if self.version == 4 else b""
        return struct.pack(">BH", kind, len(letters)) + letters + size + body

    def value(self, value: Any) -> bytes:
        if isinstance(value, str):
            return self.value(np.frombuffer(value.encode("utf-16-le"), "<u2"))
        if isinstance(value, np.ndarray):
            info = [20, ELEMENT[value.dtype.str[1:]], value.size]
            return self.info(info) + value.tobytes()
        if isinstance(value, float):
            return self.info([6]) + struct.pack("<f", value)
        return self.info([5]) + struct.pack("<I", value)

    def info(self, numbers: list[int]) -> bytes:
        packed = b"".join(struct.pack(self.long, n) for n in numbers)
        return b"%%%%" + struct.pack(self.long, len(numbers)) + packed


def _write(
    path: Path, values: np.ndarray, size: tuple[tuple[float, str], ...] = ()
) -> None:
    """Write an image with the size and unit of each axis (x, y, z)."""
    _write_images(path, _image(values, size))


def _write_images(path: Path, *images: Tags) -> None:
    listed = {" " * (nth + 1): image for nth, image in enumerate(images)}
    version = int(path.suffix[-1])
    path.write_bytes(Writer(version).file({"ImageList": listed}))


def _image(values: np.ndarray, size: tuple[tuple[float, str], ...] = ()) -> Tags:
    size = size or ((1.0, ""),) * values.ndim
    axes = {
        f" {i}": {"Origin": 0.0, "Scale": scale, "Units": unit}
        for i, (scale, unit) in enumerate(size)
    }
    grey = {"Origin": 0.0, "Scale": 1.0, "Units": ""}
    data: Tags = {
        "Calibrations": {"Brightness": grey, "Dimension": axes},
        "Data": values.ravel(),
        "DataType": GATAN[values.dtype.str[1:]],
        "Dimensions": {f" {i}": n for i, n in enumerate(values.shape[::-1])},
        "PixelDepth": values.itemsize,
    }
    return {"ImageData": data, "ImageTags": {"emseg": 1}, "Name": "cells"}


@pytest.fixture(params=["dm3", "dm4"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"a.{request.param}"


@pytest.mark.parametrize("dtype", GATAN)
def test_stack(path: Path, stack: np.ndarray, dtype: str) -> None:
    values = stack.astype(dtype)
    _write(path, values)
    opened = open_stack(path)
    assert opened.dtype == values.dtype
    assert opened.voxel_size_nm is None
    np.testing.assert_array_equal(opened.data[:], values)


def test_picture(path: Path, stack: np.ndarray) -> None:
    _write(path, stack[0])
    np.testing.assert_array_equal(open_stack(path).data[:], stack[:1])


def test_each_axis_has_its_unit(path: Path, stack: np.ndarray) -> None:
    _write(path, stack, ((4.0, "nm"), (0.005, "µm"), (500.0, "Å")))
    assert open_stack(path).voxel_size_nm == pytest.approx((50, 5, 4))


@pytest.mark.parametrize("first", ["spectrum", "picture"])
def test_picture_beside_a_spectrum(path: Path, stack: np.ndarray, first: str) -> None:
    size = ((4.0, "nm"), (5.0, "nm"))
    picture, spectrum = _image(stack[0], size), _image(np.arange(90, dtype="f4"))
    images = [spectrum, picture] if first == "spectrum" else [picture, spectrum]
    _write_images(path, *images)
    opened = open_stack(path)
    np.testing.assert_array_equal(opened.data[:], stack[:1])
    assert opened.voxel_size_nm == pytest.approx((None, 5, 4))
    nth = images.index(picture)
    np.testing.assert_array_equal(open_stack(path, series=nth).data[:], stack[:1])


def test_several_pictures_ask_and_spectra_alone_are_refused(
    path: Path, stack: np.ndarray
) -> None:
    spectrum = _image(np.arange(90, dtype="f4"))
    _write_images(path, _image(stack[0]), spectrum, _image(stack))
    with pytest.raises(AmbiguousFileError, match=r"several pictures.*: 0 .*, 2 "):
        open_stack(path)
    np.testing.assert_array_equal(open_stack(path, series=2).data[:], stack)
    _write_images(path, spectrum, spectrum)
    with pytest.raises(OSError, match="holds a spectrum, not a picture"):
        open_stack(path)


@pytest.mark.parametrize("shape", [(1, 20, 33), (1, 5, 20, 33)])
def test_axes_of_length_1(
    path: Path, stack: np.ndarray, shape: tuple[int, ...]
) -> None:
    expected = stack[: 5 if 5 in shape else 1]
    _write(path, expected.reshape(shape))
    np.testing.assert_array_equal(open_stack(path).data[:], expected)


def test_unknown_unit_of_z(path: Path, stack: np.ndarray) -> None:
    _write(path, stack, ((4.0, "nm"), (4.0, "nm"), (1.0, "slices")))
    assert open_stack(path).voxel_size_nm == pytest.approx((None, 4, 4))


@pytest.mark.parametrize("part", [0.001, 0.03, 0.2, 0.5, 0.9])
def test_cut_short(path: Path, stack: np.ndarray, part: float) -> None:
    _write(path, stack)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(OSError, match=rf"a{path.suffix}: "):
        open_stack(path)
