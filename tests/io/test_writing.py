"""What both outputs have in common: names, refusals, and the part under way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_sink, open_stack, output_format, save_stack

both = pytest.mark.parametrize("name", ["a.tif", "a.zarr"])


def test_the_name_says_the_format() -> None:
    assert output_format("a.TIFF") == "tiff"
    assert output_format(Path("x/a.ome.zarr")) == "zarr"
    with pytest.raises(ValueError, match=r"a\.png by its name; use one of \.tif"):
        output_format("a.png")


@pytest.mark.parametrize("format", ["tiff", "zarr"])
def test_format_wins_over_the_name(
    tmp_path: Path,
    stack: np.ndarray,
    format: str,  # noqa: A002 - the option's name
) -> None:
    save_stack(tmp_path / "a.out", stack, format=format)  # type: ignore[arg-type]
    np.testing.assert_array_equal(open_stack(tmp_path / "a.out").data[:], stack)


@both
def test_existing_output_is_refused(
    tmp_path: Path, stack: np.ndarray, name: str
) -> None:
    save_stack(tmp_path / name, stack)
    with pytest.raises(FileExistsError, match="exists already"):
        save_stack(tmp_path / name, stack)
    save_stack(tmp_path / name, 255 - stack, overwrite=True)
    np.testing.assert_array_equal(open_stack(tmp_path / name).data[:], 255 - stack)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@both
def test_old_output_stays_until_the_new_one_is_whole(
    tmp_path: Path, stack: np.ndarray, name: str
) -> None:
    save_stack(tmp_path / name, stack)
    sink = open_sink(tmp_path / name, (1, 2, 3), np.uint8, overwrite=True)
    sink.abort()
    np.testing.assert_array_equal(open_stack(tmp_path / name).data[:], stack)
    assert [p.name for p in tmp_path.iterdir()] == [name]


@both
def test_missing_folder(tmp_path: Path, stack: np.ndarray, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"nil does not exist"):
        save_stack(tmp_path / "nil" / name, stack)


@both
def test_folder_not_writable(
    tmp_path: Path, stack: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="can't be written to"):
        save_stack(tmp_path / name, stack)


@both
def test_abort_keeps_or_removes(tmp_path: Path, stack: np.ndarray, name: str) -> None:
    sink = open_sink(tmp_path / name, stack.shape, stack.dtype)
    sink.write(1, stack[1])
    kept = sink.abort(keep=True)
    assert [kept] == list(tmp_path.glob(f"{name}.*.part"))
    opened = open_stack(kept)
    np.testing.assert_array_equal(opened.section(1), stack[1])
    sink = open_sink(tmp_path / name, stack.shape, stack.dtype)
    assert sink.abort() is None
    assert list(tmp_path.iterdir()) == []


@both
def test_an_error_keeps_the_part(tmp_path: Path, stack: np.ndarray, name: str) -> None:
    def stop() -> None:
        with open_sink(tmp_path / name, stack.shape, stack.dtype) as sink:
            sink.write(0, stack[0])
            msg = "stop"
            raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="stop"):
        stop()
    assert [p.suffix for p in tmp_path.iterdir()] == [".part"]


@both
def test_sections_must_fit(tmp_path: Path, stack: np.ndarray, name: str) -> None:
    sink = open_sink(tmp_path / name, stack.shape, stack.dtype)
    with pytest.raises(IndexError, match=r"no section 5 .*0\.\.4"):
        sink.write(5, stack[0])
    with pytest.raises(ValueError, match=r"section 1 is \(7, 33\) px"):
        sink.write(1, stack[1, :7])
    sink.abort()


@both
@pytest.mark.parametrize("shape", [(20, 33), (0, 20, 33), (5, 20, 0)])
def test_shapes_it_refuses(
    tmp_path: Path, name: str, shape: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match="non-empty"):
        open_sink(tmp_path / name, shape, np.uint8)


@both
def test_a_stack_keeps_its_voxel_size(
    tmp_path: Path, stack: np.ndarray, name: str
) -> None:
    source = Stack(stack, voxel_size_nm=(50, 5, 4))
    save_stack(tmp_path / name, source)
    assert open_stack(tmp_path / name).voxel_size_nm == pytest.approx((50, 5, 4))
    save_stack(tmp_path / name, source, voxel_size_nm=(40, 8, 8), overwrite=True)
    assert open_stack(tmp_path / name).voxel_size_nm == pytest.approx((40, 8, 8))


@both
def test_from_file_to_file(tmp_path: Path, stack: np.ndarray, name: str) -> None:
    np.save(tmp_path / "raw.npy", stack)
    path = save_stack(tmp_path / name, open_stack(tmp_path / "raw.npy"))
    np.testing.assert_array_equal(open_stack(path).data[:], stack)


def test_values_that_are_refused_leave_nothing_behind(tmp_path: Path) -> None:
    values = np.zeros((3, 8, 8), np.float32)
    values[1] = 2
    made = Provenance(kind="membrane")
    with pytest.raises(ValueError, match="section 1 has values from 2 to 2"):
        save_stack(tmp_path / "a.tif", values, provenance=made)
    assert not list(tmp_path.iterdir())
