"""TIFF in its many forms, written here by tifffile and PIL, read by `open_stack`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
from napari_builtins.io import napari_write_image
from PIL import Image
from skimage.io import imsave

from napari_emseg.io import AmbiguousFileError, describe, open_stack

FORMS: dict[str, dict[str, Any]] = {
    "contiguous": {"photometric": "minisblack"},
    "BigTIFF": {"bigtiff": True},
    "tiled": {"tile": (16, 16)},
    "tiled, deflate, BigTIFF": {
        "tile": (16, 16),
        "compression": "zlib",
        "bigtiff": True,
    },
    "LZW with predictor": {"compression": "lzw", "predictor": True},
    "zstd": {"compression": "zstd"},
    "PackBits": {"compression": "packbits"},
    "big-endian": {"byteorder": ">"},
    "big-endian, deflate": {"byteorder": ">", "compression": "zlib"},
    "strips": {"rowsperstrip": 3, "compression": "zlib"},
    "ImageJ": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "OME": {"ome": True, "metadata": {"axes": "ZYX"}},
    "without notes": {"metadata": None},
}


@pytest.mark.parametrize("form", FORMS)
def test_form(tmp_path: Path, stack: np.ndarray, form: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, **{"photometric": "minisblack", **FORMS[form]})
    opened = open_stack(path)
    assert opened.shape == stack.shape
    assert opened.voxel_size_nm is None
    for z in (4, 0, 2):
        np.testing.assert_array_equal(opened.section(z), stack[z])


DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64"]
DTYPES += ["float16", "float32", "float64"]


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype(tmp_path: Path, dtype: str, byteorder: str) -> None:
    values = (np.arange(2 * 7 * 5).reshape(2, 7, 5) - 30).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, byteorder=byteorder, photometric="minisblack")
    opened = open_stack(path)
    assert opened.dtype == values.dtype
    assert opened.dtype.isnative
    np.testing.assert_array_equal(opened.data[:], values)


def test_bool_of_tifffile_and_of_pil(tmp_path: Path, stack: np.ndarray) -> None:
    mask = stack > 127
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="minisblack")
    Image.fromarray(mask[0]).save(tmp_path / "b.tif")
    for name in ("a.tif", "b.tif"):
        opened = open_stack(tmp_path / name)
        assert opened.dtype == bool
        np.testing.assert_array_equal(opened.section(0), mask[0])


@pytest.mark.parametrize(
    ("dtype", "bright"), [("uint8", 255), ("uint16", 65535), ("float32", 0)]
)
def test_min_is_white_turns_bright(tmp_path: Path, dtype: str, bright: int) -> None:
    values = np.arange(35, dtype=dtype).reshape(1, 7, 5)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="miniswhite")
    np.testing.assert_array_equal(open_stack(path).section(0), bright - values[0])


def test_multipage_of_another_writer(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    opened = open_stack(path)
    assert opened.voxel_size_nm is None
    np.testing.assert_array_equal(opened.section(3), stack[3])


def test_imagej_hyperstack_asks_time_then_channel(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 4 * 7 * 5, dtype=np.uint16).reshape(2, 3, 4, 7, 5)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(
        AmbiguousFileError, match=r"a\.tif: has 2 points in time.*time="
    ):
        open_stack(path)
    with pytest.raises(AmbiguousFileError, match=r"has 4 channels.*channel=") as info:
        open_stack(path, time=1)
    assert info.value.option == "channel"
    assert [value for value, _ in info.value.choices] == [0, 1, 2, 3]
    opened = open_stack(path, time=1, channel=2)
    np.testing.assert_array_equal(opened.data[:], values[1, :, 2])


def test_sections_saved_as_time_or_channels(tmp_path: Path, stack: np.ndarray) -> None:
    for axes, option in (("TYX", "time"), ("CYX", "channel")):
        path = tmp_path / f"{option}.tif"
        tifffile.imwrite(path, stack, imagej=True, metadata={"axes": axes})
        with pytest.raises(AmbiguousFileError) as info:
            open_stack(path)
        assert info.value.choices[0][0] == "z"
    np.testing.assert_array_equal(
        open_stack(tmp_path / "time.tif", time="z").data[:], stack
    )
    np.testing.assert_array_equal(
        open_stack(tmp_path / "channel.tif", channel="z").data[:], stack
    )
    np.testing.assert_array_equal(
        open_stack(tmp_path / "time.tif", time=3).data[:], stack[3:4]
    )


def test_ome_series_are_asked_for(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(stack, metadata={"axes": "ZYX", "Name": "raw"})
        tif.write(stack[:2, :9], metadata={"axes": "ZYX", "Name": "small"})
    with pytest.raises(
        AmbiguousFileError, match=r"a\.ome\.tif.*0 \(raw.*1 \(small"
    ) as info:
        open_stack(path)
    assert info.value.option == "series"
    np.testing.assert_array_equal(open_stack(path, series=1).data[:], stack[:2, :9])
    with pytest.raises(AmbiguousFileError, match="no series 2"):
        open_stack(path, series=2)
    assert [item.words for item in describe(path).items] == ["raw", "small"]


def _append(path: Path, sections: np.ndarray) -> None:
    for section in sections:
        tifffile.imwrite(path, section, append=True, photometric="minisblack")


def _in_a_loop(path: Path, sections: np.ndarray) -> None:
    with tifffile.TiffWriter(path) as tif:
        for section in sections:
            tif.write(section, photometric="minisblack", compression="zlib")


@pytest.mark.parametrize("write", [_append, _in_a_loop])
def test_pictures_alike_that_were_saved_one_by_one_are_the_sections(
    tmp_path: Path, stack: np.ndarray, write: Callable[[Path, np.ndarray], None]
) -> None:
    path = tmp_path / "a.tif"
    write(path, stack)
    for series in (None, "z"):
        np.testing.assert_array_equal(open_stack(path, series=series).data[:], stack)
    np.testing.assert_array_equal(
        open_stack(path).data[3, 4:9, 5:30], stack[3, 4:9, 5:30]
    )
    np.testing.assert_array_equal(open_stack(path, series=3).data[:], stack[3:4])


def test_two_pictures_alike_and_those_of_ome_are_asked_for(
    tmp_path: Path, stack: np.ndarray
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tif:
        for section in stack:
            tif.write(section, photometric="minisblack")
    _append(tmp_path / "two.tif", stack[:2])
    for name in ("a.ome.tif", "two.tif"):
        with pytest.raises(AmbiguousFileError, match=r": 'z' \(they are the sections"):
            open_stack(tmp_path / name)
        opened = open_stack(tmp_path / name, series="z").data[:]
        np.testing.assert_array_equal(opened, stack[: len(opened)])
    assert len(opened) == 2


def test_stacks_and_grey_saved_one_by_one(tmp_path: Path, stack: np.ndarray) -> None:
    _append(tmp_path / "stacks.tif", np.stack([stack] * 3))
    with pytest.raises(AmbiguousFileError, match="several pictures") as info:
        open_stack(tmp_path / "stacks.tif")
    assert [key for key, _ in info.value.choices] == [0, 1, 2]
    for section in stack:
        colour = np.stack([section] * 3, -1)
        tifffile.imwrite(tmp_path / "c.tif", colour, append=True, photometric="rgb")
    np.testing.assert_array_equal(open_stack(tmp_path / "c.tif").data[:], stack)


def test_ome_pyramid_has_levels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 255, (3, 64, 48), dtype=np.uint8)
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        notes = {"axes": "ZYX"}
        for axis, length in (("X", 4.0), ("Y", 6.0), ("Z", 50.0)):
            notes |= {f"PhysicalSize{axis}": length, f"PhysicalSize{axis}Unit": "nm"}
        tif.write(values, subifds=1, tile=(16, 16), metadata=notes)
        tif.write(values[:, ::2, ::2], subfiletype=1, tile=(16, 16))
    assert open_stack(path).shape == (3, 64, 48)
    small = open_stack(path, level=1)
    np.testing.assert_array_equal(small.data[:], values[:, ::2, ::2])
    assert open_stack(path).voxel_size_nm == (50, 6, 4)
    assert small.voxel_size_nm == (50, 12, 8)
    with pytest.raises(ValueError, match=r"level must be 0\.\.1, got 2"):
        open_stack(path, level=2)
    assert describe(path).items[0].shapes == ((3, 64, 48), (3, 32, 24))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("samples", [3, 4])
def test_grey_stored_as_colour(
    tmp_path: Path, stack: np.ndarray, samples: int, planar: str
) -> None:
    axis = -1 if planar == "contig" else 1
    values = np.stack([stack] * samples, axis=axis)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb", planarconfig=planar)
    opened = open_stack(path)
    assert opened.shape == stack.shape
    np.testing.assert_array_equal(opened.data[:], stack)


def test_grey_with_alpha(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(stack[0]).convert("LA").save(path)
    np.testing.assert_array_equal(open_stack(path).section(0), stack[0])


def test_inks_and_complex_values_are_refused(tmp_path: Path, stack: np.ndarray) -> None:
    Image.fromarray(stack[0]).convert("CMYK").save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=r"a\.tif: is in CMYK"):
        open_stack(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", stack.astype(np.complex64))
    with pytest.raises(OSError, match=r"b\.tif: .*not complex64"):
        open_stack(tmp_path / "b.tif")


def test_real_colour_asks_for_a_channel(tmp_path: Path, stack: np.ndarray) -> None:
    colour = np.stack([stack[0], stack[1], stack[2]], axis=-1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, colour, photometric="rgb")
    with pytest.raises(AmbiguousFileError, match=r"is a colour picture.*'?green"):
        open_stack(path)
    np.testing.assert_array_equal(open_stack(path, channel=1).section(0), stack[1])
    as_sections = open_stack(path, channel="z")
    np.testing.assert_array_equal(as_sections.data[:], stack[:3])


def test_colour_in_the_dark_end_of_16_bit_is_colour(tmp_path: Path) -> None:
    colour = np.zeros((16, 16, 3), np.uint16)
    colour[..., 0] = 600
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, colour, photometric="rgb")
    with pytest.raises(AmbiguousFileError, match="is a colour picture"):
        open_stack(path)


def save_by_napari(path: str, values: np.ndarray) -> None:
    """Save as File › Save Selected Layers does."""
    napari_write_image(path, values, {"name": "x"})


WRITERS: dict[str, Callable[[str, np.ndarray], None]] = {
    "tifffile": tifffile.imwrite,
    "tifffile, compressed": partial(tifffile.imwrite, compression="zlib"),
    "tifffile, tiled": partial(tifffile.imwrite, tile=(16, 16)),
    "tifffile without notes": partial(tifffile.imwrite, metadata=None),
    "scikit-image": partial(imsave, check_contrast=False),
    "napari": save_by_napari,
}
TYPES = [
    "uint8",
    "int8",
    "uint16",
    "int16",
    "uint32",
    "int32",
    "uint64",
    "int64",
    "float32",
    "float64",
]


@pytest.mark.filterwarnings("ignore:.*photometric:DeprecationWarning")
@pytest.mark.parametrize("writer", WRITERS)
def test_three_and_four_sections_are_sections(tmp_path: Path, writer: str) -> None:
    rng = np.random.default_rng(0)
    path = str(tmp_path / "a.tif")
    for dtype in TYPES:
        for shape in ((3, 20, 33), (4, 20, 33), (3, 3, 33), (4, 4, 33), (1, 3, 20, 33)):
            values = rng.integers(0, 99, shape).astype(dtype)
            WRITERS[writer](path, values)
            expected = values.reshape(-1, *shape[-2:])
            for channel in (None, "z"):
                opened = open_stack(path, channel=channel)
                np.testing.assert_array_equal(opened.data[:], expected)
            part = open_stack(path).data[2, 1:3, 5:9]
            np.testing.assert_array_equal(part, expected[2, 1:3, 5:9])
            chosen = open_stack(path, channel=1)
            np.testing.assert_array_equal(chosen.data[:], expected[1:2])


@pytest.mark.filterwarnings("ignore:.*photometric:DeprecationWarning")
def test_three_sections_that_are_alike_are_three(
    tmp_path: Path, stack: np.ndarray
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([stack[0]] * 3))
    assert open_stack(tmp_path / "a.tif").shape == (3, 20, 33)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_planes_of_colour_by_an_unknown_program_ask(
    tmp_path: Path, stack: np.ndarray, dtype: type[np.generic]
) -> None:
    path = tmp_path / "a.tif"
    notes = {"metadata": None, "software": False}
    planes = stack[:3].astype(dtype)
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **notes)
    with pytest.raises(AmbiguousFileError, match=r"red.*they are the sections") as info:
        open_stack(path)
    assert ("z", "they are the sections") in info.value.choices
    np.testing.assert_array_equal(open_stack(path, channel="z").data[:], planes)
    np.testing.assert_array_equal(open_stack(path, channel=2).data[0], planes[2])


def test_colour_that_begins_grey_is_told_at_its_section(
    tmp_path: Path, stack: np.ndarray
) -> None:
    values = np.stack([stack] * 3, axis=-1)
    values[2, 0, 0] = (255, 0, 0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="rgb")
    opened = open_stack(path)
    np.testing.assert_array_equal(opened.section(1), stack[1])
    with pytest.raises(OSError, match=r"a\.tif, section 2: is a colour picture"):
        opened.section(2)


def test_unlike_pages_are_named(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for page in [*stack[:3], stack[3, :10], stack[4]]:
            tif.write(page, metadata=None, photometric="minisblack")
    with pytest.raises(
        AmbiguousFileError, match=r"a\.tif: .*page 3 is \(10, 33\)"
    ) as info:
        open_stack(path)
    assert info.value.option == "series"


def test_pages_of_unlike_type_are_named(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for page in [stack[0], stack[1].astype(np.uint16)]:
            tif.write(page, metadata=None, photometric="minisblack")
    with pytest.raises(
        AmbiguousFileError, match=r"page 0 is .*uint8.*page 1 is .*uint16"
    ):
        open_stack(path)


def test_a_damaged_page_leaves_the_others(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[2].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 60)
    opened = open_stack(path)
    np.testing.assert_array_equal(opened.section(1), stack[1])
    np.testing.assert_array_equal(opened.section(3), stack[3])
    with pytest.raises(OSError, match=r"a\.tif, section 2: is damaged"):
        opened.section(2)


def test_pages_in_a_circle(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        for page in stack:  # pages that are not alike take the longest way
            tif.write(page, metadata=None, compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        first, second, last = (tif.pages[i] for i in (0, 1, 4))
        tags = len(tif.pages[4].aspage().tags)
        at = last.offset + 2 + 12 * tags
        assert first.offset < second.offset
        back = second.offset
    with path.open("r+b") as file:
        file.seek(at)
        assert file.read(4) == bytes(4)
        file.seek(at)
        file.write(back.to_bytes(4, "little"))
    with pytest.raises(OSError, match=r"a\.tif: is damaged.*circular"):
        open_stack(path)


def test_tiles_that_are_not_listed(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stack[0], tile=(16, 16), compression="zlib", photometric="minisblack"
    )
    with tifffile.TiffFile(path) as tif:
        tag = tif.pages.first.tags["TileOffsets"]
        assert tag.count == 6
        offset = tag.offset
    with path.open("r+b") as file:
        file.seek(offset + 4)  # the tag's count
        file.write((5).to_bytes(4, "little"))
    with pytest.raises(OSError, match=r"a\.tif, section 0: .*5 of 6 strips or tiles"):
        open_stack(path).section(0)


def test_values_cut_off_are_told_at_their_page(
    tmp_path: Path, stack: np.ndarray
) -> None:
    path = tmp_path / "a.tif"
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with tifffile.TiffFile(path) as tif:
        last = max(page.dataoffsets[0] for page in tif.pages)
        if last < max(page.offset for page in tif.pages):
            pytest.skip("this PIL writes values before the notes on them")
    path.write_bytes(path.read_bytes()[: last + 5])
    opened = open_stack(path)
    np.testing.assert_array_equal(opened.section(0), stack[0])
    with pytest.raises(OSError, match=r"a\.tif, section 4: .*cut short"):
        opened.section(4)


def test_a_file_that_cannot_be_read_is_closed_at_once(
    tmp_path: Path, stack: np.ndarray
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["ImageWidth"].overwrite(0)
    with pytest.raises(OSError, match=r"^a\.tif: is damaged or cut short") as error:
        open_stack(path)
    # while the error is held, nothing else can have closed it
    assert error
    assert str(path) not in [file.path for file in psutil.Process().open_files()]


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1), (1, 1, 5), (6, 1, 5)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_sections_of_a_pixel_or_a_row(tmp_path: Path, shape, compression) -> None:
    values = np.arange(7, 7 + np.prod(shape), dtype=np.uint8).reshape(shape)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, photometric="minisblack", compression=compression)
    np.testing.assert_array_equal(
        open_stack(path).data[:], values.reshape(-1, *shape[-2:])
    )
