"""NumPy's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_emseg.io import AmbiguousFileError, open_stack


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "<i4", "float32", ">f8", "bool"])
@pytest.mark.parametrize("fortran", [False, True])
def test_round_trip(
    tmp_path: Path, stack: np.ndarray, dtype: str, fortran: bool
) -> None:
    values = stack.astype(dtype)
    np.save(tmp_path / "a.npy", np.asfortranarray(values) if fortran else values)
    opened = open_stack(tmp_path / "a.npy")
    assert opened.voxel_size_nm is None
    np.testing.assert_array_equal(opened.section(3), values[3])


def test_single_picture(tmp_path: Path, stack: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", stack[0])
    assert open_stack(tmp_path / "a.npy").shape == (1, 20, 33)


def test_colour_and_time(tmp_path: Path, stack: np.ndarray) -> None:
    np.save(tmp_path / "colour.npy", np.stack([stack[0], stack[1], stack[2]], -1))
    with pytest.raises(AmbiguousFileError, match="colour"):
        open_stack(tmp_path / "colour.npy")
    np.save(tmp_path / "time.npy", np.stack([stack, stack + 1]))
    with pytest.raises(AmbiguousFileError, match="time="):
        open_stack(tmp_path / "time.npy")
    opened = open_stack(tmp_path / "time.npy", time=1)
    np.testing.assert_array_equal(opened.data[:], stack + 1)


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 20, 33),
        (20, 33, 1),
        (5, 20, 33, 1),
        (1, 5, 20, 33),
        (5, 1, 20, 33),
        (1, 1, 20, 33, 1, 1),
    ],
)
def test_axes_of_length_1(
    tmp_path: Path, stack: np.ndarray, shape: tuple[int, ...], fortran: bool
) -> None:
    expected = stack[: 5 if 5 in shape else 1]
    values = expected.reshape(shape)
    np.save(tmp_path / "a.npy", np.asfortranarray(values) if fortran else values)
    opened = open_stack(tmp_path / "a.npy")
    np.testing.assert_array_equal(opened.data[:], expected)
    np.testing.assert_array_equal(opened.data[0, 2:4, 5:], expected[0, 2:4, 5:])


def test_header_without_its_end(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.npy"
    np.save(path, stack)
    path.write_bytes(path.read_bytes().replace(b"}", b" ", 1))
    with pytest.raises(OSError, match=r"a\.npy: is damaged"):
        open_stack(path)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (np.zeros(5), "not a picture"),
        (np.array([[None]]), "Python objects"),
        (np.zeros((2, 3, 4), complex), "real numbers"),
        (np.zeros((0, 3, 4)), "is empty"),
    ],
)
def test_no_pictures(tmp_path: Path, values: np.ndarray, cause: str) -> None:
    np.save(tmp_path / "a.npy", values, allow_pickle=True)
    with pytest.raises((OSError, ValueError), match=cause):
        open_stack(tmp_path / "a.npy")
