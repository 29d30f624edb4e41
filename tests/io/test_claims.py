"""Small files that claim much: refused in a line, before memory is taken."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import struct
import subprocess
import sys
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from napari_emseg.io import claims, open_stack
from napari_emseg.io.compressed import clear_scratch, new_scratch
from napari_emseg.io.errors import clear_errors

SIDE = 60_000


def _deflated_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tif.pages.first.tags[name].overwrite(SIDE)


def _ome(path: Path) -> None:
    data = np.zeros((3, 8, 8), np.uint8)
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path, mode="r+") as tif:
        xml = tif.pages.first.description.replace('SizeZ="3"', 'SizeZ="1000000000"')
        tif.pages.first.tags["ImageDescription"].overwrite(xml)


def _shaped(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as tif:
        said = json.dumps({"shape": [10**9, 8, 8]})
        tif.pages.first.tags["ImageDescription"].overwrite(said)


def _png(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    raw = bytearray(path.read_bytes())
    raw[16:24] = struct.pack(">II", SIDE, SIDE)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    path.write_bytes(raw)


def _jpeg(path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"\xff\xc0") + 5
    raw[at : at + 4] = struct.pack(">HH", SIDE, SIDE)
    path.write_bytes(raw)


def _npy(path: Path) -> None:
    np.save(path, np.zeros((8, 8), np.uint8))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"(8, 8), }    ", b"(-8, -8), }  "))


def _mrc(path: Path) -> None:
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.zeros((2, 8, 8), np.int16))
    raw = bytearray(path.read_bytes())
    raw[:12] = struct.pack("<iii", SIDE, SIDE, 1000)
    path.write_bytes(raw)


def _thin_voxels(path: Path) -> None:
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.zeros((2, 8, 8), np.int16))
        mrc.voxel_size = 1e-12


def _zarr(path: Path) -> None:
    zarr.create_array(path, shape=(10**9, 8, 8), chunks=(1, 8, 8), dtype="u1")


def _zarr_chunk(path: Path) -> None:
    side = 2**22
    zarr.create_array(path, shape=(2, side, side), chunks=(1, side, side), dtype="u1")


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "deflated.tif": (_deflated_tiff, r"\d+ bytes can't hold the 60,000 × 60,000"),
    "a.ome.tif": (_ome, r"its OME-XML claims 1,000,000,000 planes"),
    "shaped.tif": (_shaped, r"shaped\.tif: "),
    "a.png": (_png, r"\d+ bytes can't hold the 60,000 × 60,000"),
    "a.jpg": (_jpeg, r"\d+ bytes can't hold the 60,000 × 60,000"),
    "a.npy": (_npy, r"no stack of sections has the shape \(-8, -8\)"),
    "a.mrc": (_mrc, r"is cut short"),
    "thin.mrc": (_thin_voxels, r"its voxel size makes no sense"),
    "a.zarr": (_zarr, r"has the shape \(1000000000, 8, 8\)"),
    "chunk.zarr": (_zarr_chunk, r"GB of memory at once, of which [\d,.]+ GB are free"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_that_claim_much_are_refused_before_memory_is_taken(
    tmp_path: Path, name: str
) -> None:
    make, message = HOSTILE[name]
    make(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match=message) as info:
            open_stack(tmp_path / name).section(0)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    assert "\n" not in str(info.value)
    assert str(info.value).startswith(f"{name}")


def test_a_voxel_size_that_is_given_wins_over_nonsense(tmp_path: Path) -> None:
    _thin_voxels(tmp_path / "a.mrc")
    opened = open_stack(tmp_path / "a.mrc", voxel_size_nm=(40, 4, 4))
    assert opened.voxel_size_nm == (40, 4, 4)


def test_a_stack_larger_than_memory_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "free_ram", lambda: 2**20)
    monkeypatch.setattr(claims, "UNASKED", 2**19)
    zarr.create_array(
        tmp_path / "a.zarr", shape=(900, 4096, 4096), chunks=(1, 64, 64), dtype="u1"
    )
    opened = open_stack(tmp_path / "a.zarr")
    assert opened.data[899, 4000:4096, :100].shape == (96, 100)
    with pytest.raises(OSError, match=r"section 7.* takes 0\.0 GB of memory at once"):
        opened.section(7)


@pytest.mark.parametrize("blank", [0, 255])
@pytest.mark.parametrize("options", [{}, {"tile": (256, 256)}, {"rowsperstrip": 100}])
@pytest.mark.parametrize("packing", ["zlib", "lzw", "packbits", "lzma", "zstd", "png"])
def test_blank_sections_are_packed_well_and_read(
    tmp_path: Path, packing: str, options: dict[str, object], blank: int
) -> None:
    """No compression does better than on these: none of them is taken for a lie."""
    section = np.full((3000, 3000), blank, np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, section, photometric="minisblack", compression=packing, **options
    )
    np.testing.assert_array_equal(open_stack(path).section(0), section)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "bits.png", "a.tif"])
def test_blank_pictures_are_read(tmp_path: Path, name: str) -> None:
    picture = Image.fromarray(np.zeros((4000, 4000), np.uint8))
    if name in ("bits.png", "a.tif"):
        picture = picture.convert("1")
    picture.save(tmp_path / name)
    assert not open_stack(tmp_path / name).section(0).any()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("inside", ["a.tif", "a.zarr/zarr.json", "a.zarr/c/0/0/0"])
def test_a_pipe_is_no_file(tmp_path: Path, inside: str) -> None:
    path = tmp_path / inside
    if "zarr" in inside:
        data = np.ones((1, 8, 8), np.uint8)
        zarr.create_array(tmp_path / "a.zarr", data=data, chunks=(1, 8, 8))
        path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="is a named pipe, not a file"):
        open_stack(tmp_path / inside.partition("/")[0]).section(0)


def test_a_device_is_no_file() -> None:
    with pytest.raises(OSError, match="is a device, not a file"):
        open_stack("/dev/zero")


@pytest.mark.parametrize("absolute", [True, False])
def test_hdf5_reads_nothing_outside_its_folder(tmp_path: Path, absolute: bool) -> None:
    (tmp_path / "private").write_bytes(bytes(range(64)))
    folder = tmp_path / "folder"
    folder.mkdir()
    place = str(tmp_path / "private") if absolute else "../private"
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("raw", (8, 8), "u1", external=[(place, 0, 64)])
    with pytest.raises(OSError, match=r"would read .*private, outside its folder"):
        open_stack(folder / "a.h5")


@pytest.mark.parametrize("packer", [gzip, bz2])
def test_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packer: object
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    raw = b"II*\0" + bytes(40 * 2**20)
    (tmp_path / "a.tif.gz").write_bytes(packer.compress(raw))
    with pytest.raises(OSError, match=r"grows to more than 250 times"):
        open_stack(tmp_path / "a.tif.gz")
    assert list(scratch.iterdir()) == []


def test_packed_twice(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(gzip.compress(b"II*\0")))
    with pytest.raises(OSError, match="is packed twice; unpack it once"):
        open_stack(tmp_path / "a.gz")


def test_copies_of_a_killed_process_are_removed_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mine = new_scratch()
    left = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import os, tempfile; tempfile.tempdir = {str(tmp_path)!r}\n"
            "from napari_emseg.io.compressed import new_scratch\n"
            "print(new_scratch(), flush=True); os._exit(9)",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    dead = Path(left.stdout.strip())
    assert dead.is_dir()
    (dead / "copy.tif").write_bytes(b"values")
    elsewhere = mine.name.replace("~", "~not-", 1)
    others = [tmp_path / "emseg-abc", tmp_path / elsewhere, tmp_path / f"{dead.name}~x"]
    for other in others:
        other.mkdir()
    kept = tmp_path / "kept"
    kept.mkdir()
    link = tmp_path / f"{dead.name}x"
    link.symlink_to(kept)
    clear_scratch()
    assert not dead.exists()
    assert all(p.is_dir() for p in (mine, kept, link, *others))


def test_long_words_of_a_library_are_cut() -> None:
    with pytest.raises(OSError, match="damaged") as info, clear_errors("a.tif"):
        raise ValueError("x" * 10_000)
    assert len(str(info.value)) < 400
