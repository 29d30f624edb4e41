import sys
import tomllib
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest
from tifffile import TiffFile, imread

from napari_emseg import _installed, sample
from napari_emseg.core.labels import touching
from napari_emseg.sample.bundled import name_in_sample, path

ROOT = Path(__file__).resolve().parents[2]


def test_sections_come_with_their_voxel_size() -> None:
    for stack in (sample.vnc(), sample.vnc_membranes()):
        assert stack.shape == (6, 512, 512)
        assert stack.dtype == np.uint8
        assert stack.voxel_size_nm == (50.0, 4.6, 4.6)
        assert stack.metadata["licence"] == "CC-BY-NC-SA-3.0"


def test_a_second_stack_is_other_tissue_with_its_cells() -> None:
    for stack, dtype in ((sample.fib25(), np.uint8), (sample.fib25_cells(), np.uint16)):
        assert stack.shape == (20, 250, 250)
        assert stack.dtype == dtype
        assert stack.voxel_size_nm == (10.0, 10.0, 10.0)
        assert stack.metadata["licence"] == "LicenseRef-FIB25"
    cells = np.asarray(sample.fib25_cells().data)
    assert len(np.unique(cells)) > 50
    raw = np.asarray(sample.fib25().data)
    between = touching(cells)
    assert raw[between].mean() + 20 < raw[~between].mean()


def test_nothing_is_read_before_a_section_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = []

    def spy(file: Path, key: int) -> np.ndarray:
        read.append(key)
        return imread(file, key=key)

    monkeypatch.setattr("tifffile.imread", spy)
    stack = sample.vnc()
    assert read == []
    section = stack.section(3)
    assert read == [3]
    np.testing.assert_array_equal(section, imread(path("vnc_raw.tif"))[3])


def test_membranes_are_255_and_dark_in_the_picture() -> None:
    raw = np.asarray(sample.vnc().data)
    membranes = np.asarray(sample.vnc_membranes().data)
    assert set(np.unique(membranes)) == {0, 255}
    assert 0.1 < (membranes == 255).mean() < 0.3
    assert raw[membranes == 255].mean() + 40 < raw[membranes == 0].mean()


@pytest.mark.parametrize("name", ["vnc_raw.tif", "vnc_membranes.tif"])
def test_files_say_their_voxel_size_in_imagej_form(name: str) -> None:
    with TiffFile(path(name)) as file:
        assert file.is_imagej
        assert file.series[0].axes == "ZYX"
        assert file.imagej_metadata is not None
        assert file.imagej_metadata["unit"] == "nm"
        assert file.imagej_metadata["spacing"] == 50
        for tag in ("XResolution", "YResolution"):
            pixels, nm = file.pages[0].tags[tag].value
            assert nm / pixels == pytest.approx(4.6)


def test_licence_and_citation_lie_beside_the_files() -> None:
    text = path("LICENCE.md").read_text(encoding="utf-8")
    for word in ("CC BY-NC-SA 3.0", "legalcode", "856713", "Gerhard", "Cropped"):
        assert word in text
    assert sum(path(n).stat().st_size for n in ("vnc_raw.tif", "vnc_membranes.tif")) < (
        2.5e6
    )


@pytest.mark.parametrize(
    ("folder", "stack", "whole"),
    [
        (ROOT, sample.fib25, "BSD-3-Clause AND LicenseRef-FIB25"),
        (ROOT / "packages" / "napari-emseg-data", sample.vnc, "CC-BY-NC-SA-3.0"),
    ],
    ids=["napari-emseg", "napari-emseg-data"],
)
def test_each_distribution_names_its_licences(folder, stack, whole) -> None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["license"] == whole
    name = stack().metadata["licence"]
    assert name in whole
    assert [path.stem for path in (folder / "LICENSES").iterdir()] == [name]
    assert folder in Path(stack().source).parents


def test_the_licence_of_fib25_is_explained() -> None:
    text = path("LICENCE-fib25.md").read_text(encoding="utf-8")
    for word in ("Takemura", "LicenseRef-FIB25", "Cropped"):
        assert word in text
    assert sum(path(f"fib25_{n}.tif").stat().st_size for n in ("raw", "cells")) < 1e6


@pytest.mark.shared_data
@pytest.mark.parametrize(("ours", "theirs"), [("raw", "raw"), ("cells", "ids")])
def test_second_crop_is_the_original(ours, theirs, shared_data: Path) -> None:
    original = imread(shared_data / "fib25" / f"ts2_{theirs}_150-249.tif")[80:]
    np.testing.assert_array_equal(imread(path(f"fib25_{ours}.tif")), original)


@pytest.mark.shared_data
@pytest.mark.parametrize("kind", ["raw", "membranes"])
def test_crop_is_the_original(kind: str, shared_data: Path) -> None:
    original = imread(shared_data / "vnc" / f"{kind}.tif")[2:8, 416:928, 288:800]
    np.testing.assert_array_equal(imread(path(f"vnc_{kind}.tif")), original)


@pytest.mark.parametrize("make", [sample.vnc, sample.vnc_membranes])
def test_what_is_not_for_commercial_use_may_be_missing(make, without_data) -> None:
    words = r"VNC.*napari-emseg-data \(not for commercial use\): pip install napari-"
    with pytest.raises(ValueError, match=words):
        make()
    assert sample.fib25().section(0).shape == (250, 250)


def test_an_empty_folder_that_pip_left_is_no_data(tmp_path, monkeypatch) -> None:
    assert _installed.data_folder().name == "napari_emseg_data"
    (tmp_path / "napari_emseg_data" / "sample").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "napari_emseg_data", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])  # no editable installations
    assert _installed.data_folder() is None


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("/env/site-packages/napari_emseg/sample/vnc_raw.tif", "vnc_raw.tif"),
        ("/env/site-packages/napari_emseg_data/sample/vnc_raw.tif", "vnc_raw.tif"),
        (r"C:\env\napari_emseg\sample\fib25_raw.tif", "fib25_raw.tif"),
        ("/data/napari_emseg/sample/other.tif", None),
        ("/data/sample/vnc_raw.tif", None),
        ("vnc_raw.tif", None),
        ("", None),
    ],
)
def test_samples_of_other_installations_are_known(place, name) -> None:
    assert name_in_sample(place) == name
