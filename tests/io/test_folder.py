"""A folder or glob of files, one section each."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_emseg.batch.inputs import find_inputs
from napari_emseg.io import open_stack

NAMES = ["s1", "s2", "s10", "s11", "s100"]
"""In the order of their numbers, which isn't that of their letters."""


@pytest.fixture
def folder(tmp_path: Path, stack: np.ndarray) -> Path:
    """Five PNG files beside files that are none of it."""
    place = tmp_path / "raw"
    place.mkdir()
    for name, section in zip(NAMES, stack, strict=True):
        Image.fromarray(section).save(place / f"{name}.png")
    (place / "notes.txt").write_text("4 nm")
    (place / ".s3.png").write_bytes(b"")
    return place


def test_natural_order(folder: Path, stack: np.ndarray) -> None:
    opened = open_stack(folder)
    assert opened.name == "raw"
    np.testing.assert_array_equal(opened.data[:], stack)


def test_glob(folder: Path, stack: np.ndarray) -> None:
    np.testing.assert_array_equal(
        open_stack(folder / "s1*.png").data[:], stack[[0, 2, 3, 4]]
    )
    np.testing.assert_array_equal(open_stack(f"{folder}/s?.png").data[:], stack[:2])
    np.testing.assert_array_equal(open_stack(f"{folder}/*2.png").data[:], stack[1:2])
    with pytest.raises(FileNotFoundError, match=r"no file matches .*t\*\.png"):
        open_stack(folder / "t*.png")


def test_brackets_in_a_name_are_no_glob(tmp_path: Path, stack: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a[1].tif", stack, photometric="minisblack")
    assert open_stack(tmp_path / "a[1].tif").shape == stack.shape


@pytest.mark.parametrize("name", ["raw[1]", "a?b", "[x]*"])
def test_brackets_in_a_folder_are_no_glob(
    tmp_path: Path, stack: np.ndarray, name: str
) -> None:
    (tmp_path / name).mkdir()
    for z in range(5):
        Image.fromarray(stack[z]).save(tmp_path / name / f"s[{z}].png")
    everything = open_stack(f"{tmp_path}/{name}/*.png")
    np.testing.assert_array_equal(everything.data[:], stack)
    brackets = open_stack(f"{tmp_path}/{name}/s[[]?].png")
    np.testing.assert_array_equal(brackets.data[:], stack)
    found = find_inputs([f"{tmp_path}/{name}/*.png"])
    assert [Path(one.path).name for one in found] == [f"s[{z}].png" for z in range(5)]


@pytest.mark.parametrize("broken", [b"", b"\x89PNG\r\n\x1a\n", b"hello"])
@pytest.mark.parametrize("which", [0, 2])
def test_one_broken_picture(
    folder: Path, stack: np.ndarray, which: int, broken: bytes
) -> None:
    (folder / f"{NAMES[which]}.png").write_bytes(broken)
    opened = open_stack(folder)
    assert opened.shape == stack.shape
    for z in range(5):
        if z == which:
            with pytest.raises(OSError, match=rf"section {z}: {NAMES[which]}\.png"):
                opened.section(z)
        else:
            np.testing.assert_array_equal(opened.section(z), stack[z])


def test_a_picture_cut_short(folder: Path, stack: np.ndarray) -> None:
    path = folder / "s10.png"
    path.write_bytes(path.read_bytes()[:300])
    opened = open_stack(folder)
    np.testing.assert_array_equal(opened.section(3), stack[3])
    with pytest.raises(OSError, match=r"section 2: s10\.png"):
        opened.section(2)


def test_a_file_removed_meanwhile(folder: Path, stack: np.ndarray) -> None:
    opened = open_stack(folder)
    (folder / "s2.png").unlink()
    np.testing.assert_array_equal(opened.section(0), stack[0])
    with pytest.raises(OSError, match=r"s2\.png"):
        opened.section(1)


def test_all_broken(folder: Path) -> None:
    for name in NAMES:
        (folder / f"{name}.png").write_bytes(b"hello")
    with pytest.raises(OSError, match=r"raw: s1\.png: "):
        open_stack(folder)


def test_unlike_sizes_name_both(folder: Path, stack: np.ndarray) -> None:
    Image.fromarray(stack[0, :7]).save(folder / "s10.png")
    with pytest.raises(
        OSError, match=r"alike in size: s1\.png has \(20, 33\), s10\.png has \(7, 33\)"
    ):
        open_stack(folder)


def test_unlike_types_name_both(folder: Path, stack: np.ndarray) -> None:
    Image.fromarray(stack[0].astype(np.uint16)).save(folder / "s10.png")
    with pytest.raises(OSError, match=r"alike in type: s1\.png.*s10\.png has uint16"):
        open_stack(folder)


def test_several_kinds_are_asked_about(folder: Path, stack: np.ndarray) -> None:
    tifffile.imwrite(folder / "mask.tif", stack[0])
    with pytest.raises(
        OSError, match=r"several kinds.*mask\.tif.*s1\.png.*raw/\*\.EXT"
    ):
        open_stack(folder)
    assert open_stack(folder / "*.png").shape == stack.shape


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(OSError, match=r"raw: has no sections in it \(.*\.png"):
        open_stack(tmp_path / "raw")


def test_folder_of_tiffs_keeps_the_pixel_size(
    tmp_path: Path, stack: np.ndarray
) -> None:
    for z in range(5):
        tifffile.imwrite(
            tmp_path / f"{z}.tif",
            stack[z],
            imagej=True,
            resolution=(0.25, 0.2),
            metadata={"unit": "nm"},
        )
    opened = open_stack(tmp_path)
    np.testing.assert_array_equal(opened.data[:], stack)
    assert opened.voxel_size_nm is not None
    assert opened.voxel_size_nm[1:] == pytest.approx((5, 4))


def test_folder_of_mrc_sections(tmp_path: Path, stack: np.ndarray) -> None:
    for z in range(5):
        with mrcfile.new(tmp_path / f"{z}.mrc") as mrc:
            mrc.set_data(stack[z].astype(np.int16))
    np.testing.assert_array_equal(open_stack(tmp_path).data[:], stack)


def test_a_stack_among_sections_is_told(tmp_path: Path, stack: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "0.tif", stack[0])
    tifffile.imwrite(tmp_path / "1.tif", stack, photometric="minisblack")
    opened = open_stack(tmp_path)
    np.testing.assert_array_equal(opened.section(0), stack[0])
    with pytest.raises(OSError, match=r"section 1: .*more than one section"):
        opened.section(1)


def test_a_thousand_headers_are_not_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for z in range(400):
        np.save(tmp_path / f"{z}.npy", np.full((4, 5), z))
    from napari_emseg.io import folder as module

    looked_at: list[Path] = []

    def recognise(path: Path) -> object:
        looked_at.append(path)
        return original(path)

    original = module.recognise
    monkeypatch.setattr(module, "recognise", recognise)
    opened = open_stack(tmp_path)
    assert opened.shape == (400, 4, 5)
    assert len(looked_at) <= module.LOOKED_AT
    assert opened.section(399).max() == 399
