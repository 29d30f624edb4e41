"""HDF5, written by h5py in the layouts of CREMI, Fiji and ilastik."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from napari_emseg.io import AmbiguousFileError, describe, open_stack


def test_only_dataset(tmp_path: Path, stack: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/inside"] = stack
        file["one_number"] = 3
    opened = open_stack(tmp_path / "a.h5")
    np.testing.assert_array_equal(opened.data[:], stack)
    assert opened.voxel_size_nm is None


def test_choice_of_dataset(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = stack
        file["other/labels"] = stack.astype(np.uint64)
    with pytest.raises(
        AmbiguousFileError, match=r"dataset=…: 'other/labels'.*'raw'"
    ) as info:
        open_stack(path)
    assert info.value.option == "dataset"
    assert open_stack(path, dataset="other/labels").dtype == np.uint64
    np.testing.assert_array_equal(open_stack(path, dataset="/raw").data[:], stack)
    with pytest.raises(AmbiguousFileError, match="no dataset 'Raw'"):
        open_stack(path, dataset="Raw")
    assert {item.key for item in describe(path).items} == {"raw", "other/labels"}


def test_cremi_layout(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.hdf"
    with h5py.File(path, "w") as file:
        file["volumes/labels/neuron_ids"] = stack.astype(np.uint64)
        file["volumes/raw"] = stack
        file["volumes/raw"].attrs["resolution"] = (40.0, 5.0, 4.0)
    opened = open_stack(path)
    assert opened.dtype == np.uint8
    assert opened.voxel_size_nm == (40, 5, 4)


def test_voxel_size_of_fiji(tmp_path: Path, stack: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = stack
        file["raw"].attrs["element_size_um"] = (0.04, 0.005, 0.004)
    size = open_stack(tmp_path / "a.h5").voxel_size_nm
    assert size == pytest.approx((40, 5, 4))


def test_axes_of_ilastik(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["exported_data"] = np.stack([stack, stack + 1], axis=-1)
        tags = {"axes": [{"key": key} for key in "zyxc"]}
        file["exported_data"].attrs["axistags"] = json.dumps(tags)
    with pytest.raises(AmbiguousFileError, match="has 2 channels"):
        open_stack(path)
    opened = open_stack(path, channel=1)
    np.testing.assert_array_equal(opened.data[:], stack + 1)


def test_axes_in_another_order(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = stack.transpose(2, 1, 0)
        for dim, label in zip(file["raw"].dims, "xyz", strict=True):
            dim.label = label
    np.testing.assert_array_equal(open_stack(path).section(2), stack[2])


@pytest.mark.parametrize("chunks", [(1, 20, 33), (2, 8, 8), (5, 20, 33)])
def test_chunks_and_compression(
    tmp_path: Path, stack: np.ndarray, chunks: tuple[int, int, int]
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=stack, chunks=chunks, compression="gzip")
    opened = open_stack(tmp_path / "a.h5")
    for z in (3, 0, 4):
        np.testing.assert_array_equal(opened.section(z), stack[z])


@pytest.mark.parametrize("chunks", [None, True])
def test_axes_of_length_1(
    tmp_path: Path, stack: np.ndarray, chunks: bool | None
) -> None:
    path = tmp_path / "a.h5"
    shapes = [(5, 20, 33, 1), (1, 5, 20, 33, 1), (1, 5, 20, 33), (1, 1, 5, 20, 33, 1)]
    with h5py.File(path, "w") as file:
        file.create_dataset("one", data=stack[0][..., None], chunks=chunks)
        file.create_dataset("one4", data=stack[0][None, ..., None], chunks=chunks)
        for nth, shape in enumerate(shapes):
            file.create_dataset(str(nth), data=stack.reshape(shape), chunks=chunks)
    for name in ("one", "one4"):
        opened = open_stack(path, dataset=name)
        np.testing.assert_array_equal(opened.data[:], stack[:1])
    for nth in range(len(shapes)):
        np.testing.assert_array_equal(open_stack(path, dataset=str(nth)).data[:], stack)


def test_last_axis_of_colours(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["grey"] = np.stack([stack[0]] * 3, axis=-1)
        file["colour"] = np.stack([*stack[:3]], axis=-1)
    grey = open_stack(path, dataset="grey")
    np.testing.assert_array_equal(grey.data[:], stack[:1])
    with pytest.raises(AmbiguousFileError, match="is a colour picture"):
        open_stack(path, dataset="colour")
    opened = open_stack(path, dataset="colour", channel="z")
    np.testing.assert_array_equal(opened.data[:], stack[:3])


@pytest.mark.parametrize("frames", [1, 5])
def test_pictures_of_velox(tmp_path: Path, stack: np.ndarray, frames: int) -> None:
    notes = {
        "BinaryResult": {
            "PixelSize": {"width": "2e-09", "height": "3e-09"},
            "PixelUnitX": "m",
            "PixelUnitY": "m",
        }
    }
    column = np.frombuffer(json.dumps(notes).encode().ljust(600, b"\0"), np.uint8)
    with h5py.File(tmp_path / "a.emd", "w") as file:
        group = file.create_group("Data/Image/0f3a")
        group["Data"] = stack[:frames].transpose(1, 2, 0)
        group["Metadata"] = np.stack([column] * frames, axis=-1)
        file["Data/SpectrumStream/77/Data"] = np.zeros((90, 1), np.uint16)
    opened = open_stack(tmp_path / "a.emd")
    np.testing.assert_array_equal(opened.data[:], stack[:frames])
    assert opened.voxel_size_nm == (None, pytest.approx(3), pytest.approx(2))
    assert opened.name == "a"


def test_sixteen_bit_of_big_data_viewer(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    values = np.linspace(0, 65535, 5 * 20 * 33).reshape(5, 20, 33).astype(np.uint16)
    with h5py.File(path, "w") as file:
        file["t00000/s00/0/cells"] = values.view(np.int16)
        file["t00000/s00/1/cells"] = values[:, ::2, ::2].view(np.int16)
        file["t00000/s01/0/cells"] = values.view(np.int16)
        file["t00000/s01/0/cells"].attrs["dataType"] = "int16"
        file["s00/resolutions"] = np.ones((2, 3))
    opened = open_stack(path, dataset="t00000/s00/0/cells")
    assert opened.dtype == np.uint16
    np.testing.assert_array_equal(opened.data[:], values)
    said = open_stack(path, dataset="t00000/s01/0/cells")
    np.testing.assert_array_equal(said.data[:], values.view(np.int16))


def test_one_view_of_big_data_viewer_is_opened(
    tmp_path: Path, stack: np.ndarray
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["t00000/s00/0/cells"] = stack
        file["t00000/s00/1/cells"] = stack[:, ::2, ::2]
        file["s00/resolutions"] = np.ones((2, 3))
    np.testing.assert_array_equal(open_stack(tmp_path / "a.h5").data[:], stack)


def test_links_in_the_folder_are_followed(tmp_path: Path, stack: np.ndarray) -> None:
    path, below = tmp_path / "a.h5", tmp_path / "parts"
    below.mkdir()
    with h5py.File(below / "part.h5", "w") as file:
        file["inside/vol"] = stack
        file["soft"] = h5py.SoftLink("/inside/vol")
    with h5py.File(path, "w") as file:
        file["em"] = stack
        file["soft"] = h5py.SoftLink("/em")
    assert open_stack(path).shape == stack.shape  # two names of one dataset
    with h5py.File(path, "a") as file:
        file["external"] = h5py.ExternalLink("parts/part.h5", "/inside/vol")
        file["both"] = h5py.ExternalLink("parts/part.h5", "/soft")
        file["group"] = h5py.ExternalLink("parts/part.h5", "/inside")
        file["same"] = h5py.ExternalLink("a.h5", "/em")
    with h5py.File(below / "part.h5", "a") as file:
        file["back"] = h5py.ExternalLink("../a.h5", "/em")
    with h5py.File(path, "a") as file:
        file["round"] = h5py.ExternalLink("parts/part.h5", "/back")
    keys = {item.key for item in describe(path).items}
    assert keys == {"em", "soft", "external", "both", "group/vol", "same", "round"}
    for key in keys:
        opened = open_stack(path, dataset=key)
        np.testing.assert_array_equal(opened.data[:], stack)
    assert str(below / "part.h5") in opened.metadata["files"]  # watched in runs


@pytest.mark.parametrize("way", ["relative", "absolute", "link", "in two steps"])
def test_links_out_of_the_folder_are_refused(
    tmp_path: Path, stack: np.ndarray, way: str
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["raw"] = stack
    names = {"relative": "../secret.h5", "absolute": str(tmp_path / "secret.h5")}
    if way == "link":
        (folder / "near.h5").symlink_to(tmp_path / "secret.h5")
    if way == "in two steps":
        with h5py.File(folder / "near.h5", "w") as file:
            file["raw"] = h5py.ExternalLink("../secret.h5", "/raw")
    with h5py.File(folder / "a.h5", "w") as file:
        file["raw"] = h5py.ExternalLink(names.get(way, "near.h5"), "/raw")
    outside = r"a\.h5: raw is a link to .*outside the folder"
    with pytest.raises(OSError, match=outside) as error:
        open_stack(folder / "a.h5")
    assert error  # as long as it is held, nothing else can have closed the file
    with h5py.File(folder / "a.h5", "a") as file:
        file["labels"] = stack
    with pytest.raises(AmbiguousFileError, match="raw is a link to"):
        open_stack(folder / "a.h5")  # labels alone would be a guess
    with pytest.raises(OSError, match="raw is a link to"):
        open_stack(folder / "a.h5", dataset="raw")


@pytest.mark.parametrize(
    ("link", "why"),
    [
        (h5py.SoftLink("/raw"), "in a circle"),
        (h5py.SoftLink("/gone"), "a link to /gone, which isn't there"),
        (h5py.ExternalLink("gone.h5", "/raw"), r"gone\.h5, which isn't there"),
        (h5py.ExternalLink("no.h5", "/raw"), r"no\.h5, which can't be opened"),
    ],
)
def test_links_to_nowhere(
    tmp_path: Path, link: h5py.SoftLink | h5py.ExternalLink, why: str
) -> None:
    (tmp_path / "no.h5").write_text("no")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = link
    with pytest.raises(OSError, match=why):
        open_stack(tmp_path / "a.h5")


def test_many_paths_by_links_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["up/again"] = h5py.SoftLink("/")
        for nth in range(20):  # 2^20 paths to nothing
            group = file.require_group(f"g{nth}")
            group["x"] = h5py.SoftLink(f"/g{nth + 1}")
            group["y"] = h5py.SoftLink(f"/g{nth + 1}")
    with pytest.raises(OSError, match=r"a\.h5"):
        open_stack(tmp_path / "a.h5")


def test_locked_by_another_program(tmp_path: Path, stack: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = stack
    writer = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print(1); input()"
    command = [sys.executable, "-c", writer.replace("print(1)", "print(1, flush=True)")]
    with subprocess.Popen(
        [*command, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OSError, match=r"open for writing .*HDF5_USE_FILE_LOCKING"):
            open_stack(path)
        other.communicate(b"\n")
    assert open_stack(path).shape == stack.shape


def test_nothing_to_see(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["curve"] = np.zeros(5)
    with pytest.raises(OSError, match=r"a\.h5: has no dataset of two or more axes"):
        open_stack(tmp_path / "a.h5")


@pytest.mark.parametrize("part", [0.01, 0.4, 0.9])
def test_cut_short(tmp_path: Path, stack: np.ndarray, part: float) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["raw"] = stack
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(OSError, match=r"a\.h5"):
        open_stack(path)


@pytest.mark.parametrize("name", ["resolution", "voxel_size"])
@pytest.mark.parametrize(
    ("attribute", "unit", "factor"),
    [
        ("unit", "um", 1e3),
        ("units", "micron", 1e3),
        ("{}_unit", "A", 0.1),
        ("{}_units", b"nm", 1),
        ("units", ["angstrom"] * 3, 0.1),
        ("unit", "pixel", None),
        ("units", ["nm", "nm"], None),
    ],
)
def test_unit_beside_a_voxel_size(
    tmp_path: Path, stack: np.ndarray, name: str, attribute: str, unit: Any, factor: Any
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = stack
        file["raw"].attrs[name] = (400, 40, 40)
        file["raw"].attrs[attribute.format(name)] = unit
    opened = open_stack(tmp_path / "a.h5")
    if factor is None:
        assert opened.voxel_size_nm is None
        assert "which is no known unit of length" in opened.metadata["remarks"][0]
    else:
        assert opened.voxel_size_nm == pytest.approx((400 * factor, *[40 * factor] * 2))
        assert "remarks" not in opened.metadata


def test_links_back_to_a_group_around_them_are_no_more_datasets(
    tmp_path: Path, stack: np.ndarray
) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["g/d"] = stack
        file["g/self"] = h5py.SoftLink("/g")
        file["g/root"] = h5py.SoftLink("/")
        file["g/file"] = h5py.ExternalLink("a.h5", "/")
    assert [item.key for item in describe(tmp_path / "a.h5").items] == ["g/d"]
    np.testing.assert_array_equal(open_stack(tmp_path / "a.h5").data[:], stack)
