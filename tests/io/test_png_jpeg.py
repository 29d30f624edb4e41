"""PNG and JPEG, written by PIL."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_emseg.io import AmbiguousFileError, open_stack


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_grey_png_in_any_mode(tmp_path: Path, stack: np.ndarray, mode: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(stack[0]).convert(mode).save(path)
    opened = open_stack(path)
    assert opened.shape == (1, 20, 33)
    assert opened.voxel_size_nm is None
    np.testing.assert_array_equal(opened.section(0), stack[0])


def test_png_of_16_bits(tmp_path: Path) -> None:
    values = np.arange(35, dtype=np.uint16).reshape(7, 5) * 1800
    Image.fromarray(values).save(tmp_path / "a.png")
    opened = open_stack(tmp_path / "a.png")
    assert opened.dtype == np.uint16
    np.testing.assert_array_equal(opened.section(0), values)


def test_png_of_1_bit(tmp_path: Path) -> None:
    mask = np.eye(9, dtype=bool)
    Image.fromarray(mask).save(tmp_path / "a.png")
    found = open_stack(tmp_path / "a.png").section(0)
    np.testing.assert_array_equal(found == found.max(), mask)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_jpeg(tmp_path: Path, mode: str) -> None:
    ramp = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(ramp).convert(mode).save(path, quality=95)
    found = open_stack(path).section(0)
    assert found.shape == ramp.shape
    assert np.abs(found.astype(int) - ramp).max() < 6


def test_a_png_of_several_pictures_is_refused(tmp_path: Path) -> None:
    first, *more = (Image.new("L", (8, 6), 40 * n) for n in range(3))
    first.save(tmp_path / "a.png", save_all=True, append_images=more)
    with pytest.raises(OSError, match=r"a\.png: is an animation of 3 pictures; save"):
        open_stack(tmp_path / "a.png")
    first.save(tmp_path / "b.png", save_all=True)
    assert open_stack(tmp_path / "b.png").shape == (1, 6, 8)


def test_inks_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 24)).save(tmp_path / "a.jpg")
    with pytest.raises(OSError, match=r"a\.jpg: is in CMYK, .*; save it as grey"):
        open_stack(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_real_colour_asks(tmp_path: Path, suffix: str) -> None:
    colour = np.zeros((16, 24, 3), np.uint8)
    colour[..., 1] = 200
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(colour).save(path)
    with pytest.raises(AmbiguousFileError, match=rf"a\.{suffix}.*colour.*channel="):
        open_stack(path)
    assert open_stack(path, channel=1).section(0).min() > 190
    assert open_stack(path, channel=0).section(0).max() < 10


def test_palette_is_read_by_its_colours(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.png"
    picture = Image.fromarray(stack[0], mode=None).convert("P")
    picture.putpalette([v for i in range(256) for v in (255 - i,) * 3])
    picture.save(path)
    shown = np.asarray(Image.open(path).convert("L"))
    np.testing.assert_array_equal(open_stack(path).section(0), shown)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7])
def test_cut_short(tmp_path: Path, stack: np.ndarray, suffix: str, part: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.tile(stack[0], (8, 8))).save(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    with pytest.raises(OSError, match=rf"a\.{suffix}"):
        open_stack(path).section(0)
