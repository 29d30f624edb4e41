"""Any file: known by content, opened lazily, and damage told with the file's name."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_emseg.core.records import Provenance
from napari_emseg.io import (
    AmbiguousFileError,
    describe,
    open_stack,
    read_provenance,
    save_stack,
)


def _tiff(path: Path, values: np.ndarray) -> None:
    tifffile.imwrite(path, values, photometric="minisblack")


def _tiles(path: Path, values: np.ndarray) -> None:
    tifffile.imwrite(
        path, values, photometric="minisblack", tile=(16, 16), compression="zlib"
    )


def _pages(path: Path, values: np.ndarray) -> None:
    pages = [Image.fromarray(page) for page in values]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])


def _mrc(path: Path, values: np.ndarray) -> None:
    with mrcfile.new(path) as mrc:
        mrc.set_data(values.astype(np.int16))


def _hdf5(path: Path, values: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", data=values, chunks=(2, 16, 16), compression="gzip")


def _npy(path: Path, values: np.ndarray) -> None:
    np.save(path, values)


def _zarr(path: Path, values: np.ndarray) -> None:
    zarr.create_array(path, data=values, chunks=(2, 16, 16))


STACKS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "a.tif": _tiff,
    "tiles.tif": _tiles,
    "pages.tiff": _pages,
    "a.mrc": _mrc,
    "a.h5": _hdf5,
    "a.npy": _npy,
    "a.zarr": _zarr,
}
FILES = [name for name in STACKS if name != "a.zarr"]


@pytest.mark.parametrize("name", STACKS)
def test_threads_get_the_right_sections(
    tmp_path: Path, stack: np.ndarray, name: str
) -> None:
    values = np.concatenate([stack, 255 - stack, stack[::-1]])
    STACKS[name](tmp_path / name, values)
    opened = open_stack(tmp_path / name)
    which = np.random.default_rng(1).integers(0, len(values), 120).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(opened.section, which))
    for z, section in zip(which, found, strict=True):
        np.testing.assert_array_equal(section, values[z])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("lie", ["b.tif", "b.png", "b.mrc", "b.h5", "b.dm3", "b"])
def test_content_wins_over_the_name(
    tmp_path: Path, stack: np.ndarray, name: str, lie: str
) -> None:
    STACKS[name](tmp_path / name, stack)
    (tmp_path / name).rename(tmp_path / lie)
    np.testing.assert_array_equal(open_stack(tmp_path / lie).section(3), stack[3])


@pytest.mark.parametrize("name", STACKS)
def test_description(tmp_path: Path, stack: np.ndarray, name: str) -> None:
    STACKS[name](tmp_path / name, stack)
    found = describe(tmp_path / name)
    assert found.default == 0
    assert found.items[0].shapes == ((5, 20, 33),)
    assert found.items[0].axes == "ZYX"
    assert found.provenance is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part", [0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.8, 0.97, 0.999])
def test_cut_short_at_any_point(
    tmp_path: Path, stack: np.ndarray, name: str, part: float
) -> None:
    """Either an error that names the file, or right values: never wrong ones."""
    path = tmp_path / name
    STACKS[name](path, stack)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * part)])
    told = 0
    try:
        opened = open_stack(path)
        for z in range(5):
            try:
                np.testing.assert_array_equal(opened.section(z), stack[z])
            except OSError as e:
                told += 1
                assert f"{name}, section" in str(e)  # noqa: PT017
    except AmbiguousFileError:
        raise
    except (OSError, ValueError) as e:
        told += 1
        assert str(e).startswith(f"{name}: ")  # noqa: PT017
    # What is missing at the very end may be padding or notes.
    assert told or part > 0.9


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_never_crash(
    tmp_path: Path, stack: np.ndarray, name: str
) -> None:
    path = tmp_path / name
    STACKS[name](path, stack)
    raw = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(5)
    for _ in range(25):
        damaged = raw.copy()
        places = rng.integers(0, min(len(raw), 2000), 6)
        damaged[places] = rng.integers(0, 255, 6)
        path.write_bytes(damaged.tobytes())
        try:
            opened = open_stack(path)
            for z in range(min(opened.shape[0], 3)):
                opened.section(z)
        except (OSError, ValueError) as e:
            assert name in str(e)  # noqa: PT017 - mostly there is no error


@pytest.mark.parametrize(
    "suffix", ["tif", "png", "jpg", "h5", "mrc", "dm3", "dm4", "npy", "gz", "xyz", ""]
)
@pytest.mark.parametrize("content", [b"", b"hello", bytes(3000), b"II*\0", b"\x1f\x8b"])
def test_no_pictures_at_all(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"^a\.") as info:
        open_stack(path)
    assert len(str(info.value)) < 300
    assert ("is empty" in str(info.value)) == (content == b"")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*nil\.tif"):
        open_stack(tmp_path / "nil.tif")


def test_voxel_size_must_make_sense(tmp_path: Path, stack: np.ndarray) -> None:
    _tiff(tmp_path / "a.tif", stack)
    with pytest.raises(ValueError, match="three numbers above 0"):
        open_stack(tmp_path / "a.tif", voxel_size_nm=(50, 0, 4))


def test_choices_that_do_not_exist(tmp_path: Path, stack: np.ndarray) -> None:
    _tiff(tmp_path / "a.tif", stack)
    for choice in ({"channel": 1}, {"time": 2}, {"level": 1}, {"dataset": "raw"}):
        with pytest.raises(ValueError, match=r"a\.tif: "):
            open_stack(tmp_path / "a.tif", **choice)


def test_name_and_notes(tmp_path: Path, stack: np.ndarray) -> None:
    tifffile.imwrite(
        tmp_path / "my.raw.ome.tif", stack, ome=True, metadata={"axes": "ZYX"}
    )
    opened = open_stack(tmp_path / "my.raw.ome.tif")
    assert opened.name == "my.raw"
    assert opened.source == str(tmp_path / "my.raw.ome.tif")
    assert opened.metadata["format"] == "TIFF"


@pytest.mark.parametrize("writer", [_tiff, _tiles])
def test_opening_reads_no_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: object
) -> None:
    path = tmp_path / "a.tif"
    writer(path, np.zeros((200, 128, 128), np.uint8))

    def refuse(*args: object, **options: object) -> None:
        pytest.fail("a section was read")

    with monkeypatch.context() as patch:
        patch.setattr(tifffile.TiffPage, "asarray", refuse)
        patch.setattr(np, "fromfile", refuse)
        opened = open_stack(path)
    assert opened.shape == (200, 128, 128)
    assert not opened.section(199).any()


def test_provenance_of_ours_only(tmp_path: Path, stack: np.ndarray) -> None:
    made = Provenance(kind="membrane", weights="isbi2012-unet", scale=255)
    save_stack(tmp_path / "a.tif", stack, provenance=made)
    save_stack(tmp_path / "a.zarr", stack, provenance=made)
    for name in ("a.tif", "a.zarr"):
        assert read_provenance(tmp_path / name) == made
        assert open_stack(tmp_path / name).metadata["emseg"] == made.model_dump()
    _tiff(tmp_path / "b.tif", stack)
    assert read_provenance(tmp_path / "b.tif") is None


def test_packed_files_are_known_by_content(tmp_path: Path, stack: np.ndarray) -> None:
    _mrc(tmp_path / "a.mrc", stack)
    raw = (tmp_path / "a.mrc").read_bytes()
    (tmp_path / "b.gz").write_bytes(bz2.compress(raw))
    (tmp_path / "c.map").write_bytes(gzip.compress(raw))
    for name in ("b.gz", "c.map"):
        np.testing.assert_array_equal(open_stack(tmp_path / name).section(1), stack[1])


@pytest.mark.shared_data
def test_bench_of_real_and_made_files(shared_data: Path) -> None:
    """Each file opens, or says in one sentence with its name why it doesn't."""
    bench = shared_data / "readers"
    files = [p for p in sorted(bench.rglob("*")) if p.is_file()]
    files = [p for p in files if not any(q.suffix == ".zarr" for q in p.parents)]
    opened: list[str] = []
    for path in [*files, bench / "ome_v2.zarr"]:
        try:
            stack = open_stack(path)
            for z in {0, stack.shape[0] - 1}:
                assert stack.section(z).shape == stack.shape[1:]
            opened.append(path.name)
        except (OSError, ValueError) as e:
            assert str(e).startswith(path.name), e  # noqa: PT017
            assert len(str(e)) < 600, e  # noqa: PT017
    assert len(opened) >= 50


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "shape", "dtype", "size"),
    [
        ("zyx_imagej_8x8x40nm.tif", (32, 200, 180), "uint8", (40, 8, 8)),
        ("ome_zyx_nm.ome.tif", (32, 200, 180), "uint8", (40, 8, 8)),
        ("bigtiff_tiled_deflate.tif", (32, 200, 180), "uint8", None),
        ("labels_uint32.tif", (32, 200, 180), "uint32", None),
        ("int16_signed.tif", (32, 200, 180), "int16", None),
        ("bool_mask.tif", (1, 200, 180), "bool", None),
        ("one_pixel.tif", (1, 1, 1), "uint8", None),
        ("mode0_int8.mrc", (32, 200, 180), "int8", (8, 8, 8)),
        ("cremi_layout.hdf", (32, 200, 180), "uint8", (10, 10, 10)),
        ("ome_v2.zarr", (32, 200, 180), "uint8", (40, 8, 8)),
        ("grey16.png", (1, 200, 180), "uint16", None),
        ("rgba.png", (1, 200, 180), "uint8", None),
        ("rgb_grey_copy.tif", (1, 200, 180), "uint8", None),
    ],
)
def test_files_of_the_bench(
    shared_data: Path,
    name: str,
    shape: tuple[int, int, int],
    dtype: str,
    size: tuple[float, float, float] | None,
) -> None:
    opened = open_stack(shared_data / "readers" / name)
    assert opened.shape == shape
    assert opened.dtype == np.dtype(dtype)
    assert opened.voxel_size_nm == (None if size is None else pytest.approx(size))


@pytest.mark.shared_data
def test_min_is_white_against_the_same_stack(shared_data: Path) -> None:
    bench = shared_data / "readers"
    with tifffile.TiffFile(bench / "miniswhite.tif") as tif:
        stored = tif.pages[7].asarray()
    found = open_stack(bench / "miniswhite.tif").section(7)
    np.testing.assert_array_equal(found, 255 - stored)


@pytest.mark.parametrize("place", ["a.n5", "a.n5/raw/s0", "renamed"])
def test_n5_is_named(tmp_path: Path, place: str) -> None:
    level = {"dimensions": [9, 8, 5], "blockSize": [9, 8, 5], "dataType": "uint8"}
    folder = tmp_path / place
    folder.mkdir(parents=True)
    (folder / "attributes.json").write_text(json.dumps(level))
    with pytest.raises(OSError, match="is N5, which isn't read; Fiji opens it"):
        open_stack(folder)
