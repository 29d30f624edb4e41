"""MRC files, written by mrcfile, and such as other programs write."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest

from napari_emseg.io import open_stack


def _write(path: Path, values: np.ndarray, angstrom: tuple[float, ...] = ()) -> None:
    with mrcfile.new(path) as mrc:
        mrc.set_data(values)
        if angstrom:
            mrc.voxel_size = angstrom  # (x, y, z)


@pytest.mark.parametrize("suffix", ["mrc", "rec", "st", "mrcs", "map"])
@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
def test_modes(tmp_path: Path, stack: np.ndarray, dtype: str, suffix: str) -> None:
    values = (stack.astype(np.int16) - (0 if dtype == "uint16" else 100)).astype(dtype)
    path = tmp_path / f"a.{suffix}"
    _write(path, values)
    opened = open_stack(path)
    assert opened.dtype == values.dtype
    np.testing.assert_array_equal(opened.data[:], values)


def test_big_endian(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.mrc"
    _write(path, stack.astype(">i2"))
    np.testing.assert_array_equal(open_stack(path).data[:], stack)


def test_voxel_size_is_in_angstrom(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.mrc"
    _write(path, stack.astype(np.int16), (40, 50, 500))
    assert open_stack(path).voxel_size_nm == pytest.approx((50, 5, 4))


def test_voxel_size_0_is_unknown(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.mrc"
    _write(path, stack.astype(np.int16))
    assert open_stack(path).voxel_size_nm is None


def test_extended_header_is_passed_over(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(stack.astype(np.int16))
        mrc.set_extended_header(np.zeros(3, "V80"))
    np.testing.assert_array_equal(open_stack(path).section(4), stack[4])


def test_unsigned_bytes_of_imod(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.mrc"
    _write(path, stack.view(np.int8))
    with path.open("r+b") as file:  # IMOD's stamp; flags without "bytes are signed"
        file.seek(152)
        file.write(np.array([1146047817, 0], "<i4").tobytes())
    opened = open_stack(path)
    assert opened.dtype == np.uint8
    np.testing.assert_array_equal(opened.data[:], stack)


def test_old_file_without_a_mark(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.st"
    _write(path, stack.astype(np.int16))
    with path.open("r+b") as file:
        file.seek(208)
        file.write(b"\0\0\0\0")
    np.testing.assert_array_equal(open_stack(path).section(2), stack[2])


def test_complex_values_are_refused(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.mrc"
    _write(path, stack.astype(np.complex64))
    with pytest.raises(OSError, match=r"a\.mrc: holds complex values"):
        open_stack(path)


@pytest.mark.parametrize("length", [1, 300, 1023, 1024, 3000])
def test_cut_short(tmp_path: Path, stack: np.ndarray, length: int) -> None:
    path = tmp_path / "a.mrc"
    _write(path, stack.astype(np.int16))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(OSError, match=r"a\.mrc: is cut short"):
        open_stack(path)
