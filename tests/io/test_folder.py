"""A folder or glob of files, one section each."""

from __future__ import annotations

from pathlib import Path
from shutil import copyfile

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_emseg.batch.inputs import find_inputs
from napari_emseg.io import UnreadableError, open_stack

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
    (tmp_path / "raw" / "project.json").touch()
    with pytest.raises(FileNotFoundError, match="raw: is a project and no stack"):
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


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["s_001", "s_002", "s_004", "s_005", "s_009", "s_010"], "3, 6…8"),
        (["0", "10", "20", "50"], "30…40"),
        (["a1_x5", "a2_x5", "a4_x5"], "3"),
        (["7", "8", "9"], ""),
        (["0", "5", "10"], ""),
        (["z1_x1", "z1_x2", "z4_x1"], ""),
        (["t1700000000", "t1700000431", "t1700003001"], ""),
        (["a1", "b3"], ""),
    ],
)
def test_missing_numbers(
    tmp_path: Path, stack: np.ndarray, names: list[str], missing: str
) -> None:
    for name in names:
        Image.fromarray(stack[0]).save(tmp_path / f"{name}.png")
    remarks = [f"numbers missing in the names of its files: {missing}"]
    expected = remarks if missing else []
    assert open_stack(tmp_path).metadata.get("remarks", []) == expected
    assert open_stack(f"{tmp_path}/*.png").metadata.get("remarks", []) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["s-2", "s-1", "s0", "s1", "s2"],
        ["-2", "-1", "0", "1", "10"],
        ["s-1", "s-2", "s-3", "s-10", "s-11"],
    ],
)
def test_numbers_below_zero(
    tmp_path: Path, stack: np.ndarray, names: list[str]
) -> None:
    for name, section in zip(names, stack, strict=True):
        Image.fromarray(section).save(tmp_path / f"{name}.png")
    np.testing.assert_array_equal(open_stack(tmp_path).data[:], stack)


def spread_ome(folder: Path, stack: np.ndarray, *, pointers: bool = False) -> None:
    """Write an OME-TIFF with a file for each section; the last one may have the notes.

    `pointers`: the others only say where these are.
    """
    ids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{z}" for z in range(5)]
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="z{z}.ome.tif">{ids[z]}</UUID></TiffData>'
        for z in range(5)
    )
    for z in range(5):
        pixels = (
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
            'Type="uint8" SizeX="33" SizeY="20" SizeZ="5" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0"/>{planes}</Pixels></Image>'
        )
        if pointers and z != 4:
            pixels = f'<BinaryOnly MetadataFile="z4.ome.tif" UUID="{ids[4]}"/>'
        schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
        notes = f'<?xml version="1.0"?><OME xmlns="{schema}" UUID="{ids[z]}">{pixels}'
        tifffile.imwrite(
            folder / f"z{z}.ome.tif",
            stack[z],
            description=f"{notes}</OME>",
            metadata=None,
        )


@pytest.mark.parametrize("pointers", [False, True])
def test_ome_tiff_whose_parts_swapped_names_is_refused(
    tmp_path: Path, stack: np.ndarray, pointers: bool
) -> None:
    spread_ome(tmp_path, stack, pointers=pointers)
    (tmp_path / "z0.ome.tif").rename(tmp_path / "x")
    (tmp_path / "z1.ome.tif").rename(tmp_path / "z0.ome.tif")
    (tmp_path / "x").rename(tmp_path / "z1.ome.tif")
    for path in (tmp_path, f"{tmp_path}/*.tif", tmp_path / "z4.ome.tif"):
        with pytest.raises(UnreadableError, match=r"z0\.ome\.tif .*is z1\.ome\.tif"):
            open_stack(path)


def test_ome_tiff_with_a_part_overwritten_is_refused(
    tmp_path: Path, stack: np.ndarray
) -> None:
    spread_ome(tmp_path, stack)
    copyfile(tmp_path / "z0.ome.tif", tmp_path / "z2.ome.tif")
    with pytest.raises(UnreadableError, match=r"z2\.ome\.tif .*is z0\.ome\.tif"):
        open_stack(tmp_path)
    for z in (1, 2, 3, 4):
        copyfile(tmp_path / "z0.ome.tif", tmp_path / f"z{z}.ome.tif")
    with pytest.raises(UnreadableError, match=r"z1\.ome\.tif .*is z0\.ome\.tif"):
        open_stack(tmp_path)


def test_ome_tiff_whose_parts_share_a_uuid_goes_by_names(
    tmp_path: Path, stack: np.ndarray
) -> None:
    spread_ome(tmp_path, stack)
    for path in tmp_path.iterdir():
        own = b'" UUID="urn:uuid:00000000-0000-0000-0000-00000000000'
        before, _, after = path.read_bytes().partition(own)
        path.write_bytes(before + own + b"0" + after[1:])
    np.testing.assert_array_equal(open_stack(tmp_path).data[:], stack)


def test_ome_tiff_whose_parts_were_renamed_names_the_missing(
    tmp_path: Path, stack: np.ndarray
) -> None:
    spread_ome(tmp_path, stack)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"new_{path.name}")
    with pytest.raises(UnreadableError, match=r": new_z0\.ome\.tif is more than one"):
        open_stack(tmp_path)
    alone = open_stack(tmp_path / "new_z1.ome.tif")
    np.testing.assert_array_equal(alone.section(1), stack[1])
    with pytest.raises(UnreadableError, match=r"it is in z3\.ome\.tif, which .*name"):
        alone.section(3)


@pytest.mark.parametrize("pointers", [False, True])
def test_ome_tiff_over_several_files_is_one_stack(
    tmp_path: Path, stack: np.ndarray, pointers: bool
) -> None:
    spread_ome(tmp_path, stack, pointers=pointers)
    for path in (tmp_path, f"{tmp_path}/*.tif", tmp_path / "z4.ome.tif"):
        opened = open_stack(path)
        np.testing.assert_array_equal(opened.data[:], stack)
    assert {Path(p).name for p in opened.metadata["files"]} == {
        f"z{z}.ome.tif" for z in range(4)
    }
    (found,) = find_inputs([f"{tmp_path}/*.tif"])
    assert open_stack(found.path).shape == stack.shape
    both = [str(tmp_path / f"z{z}.ome.tif") for z in (3, 4)]
    assert [one.path for one in find_inputs(both)] == [both[pointers]]


def test_part_of_an_ome_tiff_or_more_than_it_is_refused(
    tmp_path: Path, stack: np.ndarray
) -> None:
    spread_ome(tmp_path, stack)
    with pytest.raises(OSError, match=r"z0\.ome\.tif is one of 5 files of a stack"):
        open_stack(f"{tmp_path}/z[01]*.tif")
    tifffile.imwrite(tmp_path / "zz.tif", stack[0])
    with pytest.raises(OSError, match=r"over 5 files, and zz\.tif is none of them"):
        open_stack(tmp_path)
    inputs = find_inputs([f"{tmp_path}/*.tif"])
    assert [Path(one.path).name for one in inputs] == ["z0.ome.tif", "zz.tif"]


def test_ome_tiff_without_one_of_its_files(tmp_path: Path, stack: np.ndarray) -> None:
    spread_ome(tmp_path, stack)
    (tmp_path / "z3.ome.tif").unlink()
    opened = open_stack(tmp_path)
    np.testing.assert_array_equal(opened.section(4), stack[4])
    with pytest.raises(OSError, match="page 3 is missing"):
        opened.section(3)


def test_ome_tiff_that_names_files_elsewhere(tmp_path: Path, stack: np.ndarray) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    spread_ome(folder, stack)
    (folder / "z2.ome.tif").rename(tmp_path / "z2.ome.tif")
    with tifffile.TiffFile(folder / "z0.ome.tif") as tif:
        notes = tif.pages.first.description
    elsewhere = notes.replace("z2.ome.tif", "../z2.ome.tif")
    tifffile.imwrite(
        folder / "z0.ome.tif", stack[0], description=elsewhere, metadata=None
    )
    with pytest.raises(OSError, match=r"z2\.ome\.tif of another folder is a part"):
        open_stack(folder / "z0.ome.tif")
