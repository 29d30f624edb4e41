import tomllib
from pathlib import Path

import numpy as np
import pytest
from tifffile import TiffFile, imread

from napari_emseg import sample
from napari_emseg.core.labels import touching
from napari_emseg.sample.bundled import path

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


def test_the_wheel_names_every_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    licences = set(project["license"].split(" AND "))
    for stack in (sample.vnc(), sample.fib25()):
        name = stack.metadata["licence"]
        assert name in licences
        assert (ROOT / "LICENSES" / f"{name}.txt").is_file()
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
