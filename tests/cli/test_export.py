"""`emseg export`, `--format`, `--ids`, `--stored` and `--table`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile

from napari_emseg.core.records import Provenance
from napari_emseg.core.stack import Stack
from napari_emseg.io import open_stack, read_provenance, save_stack

SIZE = (50.0, 4.0, 4.0)


@pytest.fixture
def probabilities(drawn_stack, tmp_path) -> Path:
    """Write probabilities as `emseg predict` does."""
    values = np.where(drawn_stack[1] == 0, np.float32(0.9), np.float32(0.2))
    made = Provenance(kind="membrane", weights="w", threshold=0.45)
    stack = Stack(values, voxel_size_nm=SIZE)
    return save_stack(tmp_path / "p.tif", stack, provenance=made)


def test_for_imod_with_size_and_provenance(emseg, probabilities):
    done = emseg("export", probabilities, "p.mrc", "--stored", "uint8", "--json")
    assert json.loads(done.out)["format"] == "mrc"
    with mrcfile.open("p.mrc") as mrc:
        assert mrc.voxel_size.tolist() == pytest.approx((40, 40, 500))
    assert read_provenance("p.mrc").scale == 255
    values = open_stack(probabilities).data[:]
    np.testing.assert_array_equal(
        open_stack("p.mrc").data[:], np.rint(values * 255).astype(np.uint8)
    )


def test_ids_too_large_exit_2_and_name_the_choices(emseg, tmp_path):
    save_stack(tmp_path / "c.tif", np.array([[[0, 70_000]]], np.uint32))
    done = emseg("export", "c.tif", "c.mrc")
    assert done.code == 2
    assert (
        "holds; count them anew from 1 (--ids renumber); or store them as 32-bit "
        "float, still exact (--ids float); or take another format, such as tiff, zarr "
        "or hdf5\n"
    ) in done.err
    assert not Path("c.mrc").exists()
    assert emseg("export", "c.tif", "c.mrc", "--ids", "renumber").code == 0
    assert open_stack("c.mrc").data[:].tolist() == [[[0, 1]]]


def test_picture_and_cells_in_one(emseg, em_file, cells_file):
    done = emseg("export", cells_file, "both.zarr", "--image", em_file)
    assert done.code == 0
    cells = open_stack("both.zarr", dataset="labels/cells")
    np.testing.assert_array_equal(cells.data[:], open_stack(cells_file).data[:])
    np.testing.assert_array_equal(
        open_stack("both.zarr").data[:], open_stack(em_file).data[:]
    )


def test_neuroglancer_needs_a_voxel_size(emseg, tmp_path):
    save_stack(tmp_path / "c.tif", np.ones((2, 3, 4), np.uint32))
    done = emseg("export", "c.tif", "c.precomputed")
    assert done.code == 2
    assert "--voxel-size" in done.err
    done = emseg("export", "c.tif", "c.precomputed", "--voxel-size", "50,4,4")
    assert done.code == 0
    info = json.loads(Path("c.precomputed/info").read_text())
    assert info["scales"][0]["resolution"] == [4, 4, 50]


def test_the_input_is_not_replaced(emseg, cells_file):
    done = emseg("export", cells_file, cells_file, "--overwrite")
    assert done.code == 2
    assert "is the input" in done.err


@pytest.mark.parametrize("link", ["--link", "--no-link"])
def test_a_table_of_cells(emseg, probabilities, link):
    done = emseg(
        *("segment", probabilities, "c.h5", "--table", "c.csv", link),
        *("--minimum-size", "10"),
    )
    assert done.code == 0
    with h5py.File("c.h5") as file:
        cells = file["cells"][()]
    rows = list(csv.DictReader(Path("c.csv").read_text("utf-8").splitlines()))
    ids = np.unique(cells[cells > 0])
    assert [int(row["cell"]) for row in rows] == ids.tolist()
    for row in rows:
        where = np.nonzero(cells == int(row["cell"]))
        sections = np.unique(where[0])
        assert int(row["voxels"]) == where[0].size
        assert int(row["sections"]) == sections.size
        assert int(row["first_section"]) == sections[0]
        area = where[0].size * 16 / sections.size
        assert float(row["mean_area_nm2"]) == pytest.approx(area, rel=1e-5)
        assert float(row["volume_nm3"]) == pytest.approx(where[0].size * 800, rel=1e-5)
        assert float(row["boundary_strength"]) == pytest.approx(0.9, abs=0.01)


def test_a_table_that_exists_is_refused_before_any_work(emseg, probabilities):
    Path("c.csv").write_text("mine")
    done = emseg("segment", probabilities, "c.tif", "--table", "c.csv")
    assert done.code == 2
    assert not Path("c.tif").exists()
    assert Path("c.csv").read_text() == "mine"


def test_a_table_of_what_cannot_be_read_again(emseg, probabilities):
    done = emseg("segment", probabilities, "c.precomputed", "--table", "c.csv")
    assert done.code == 2
    assert "can't" in done.err
    assert not Path("c.precomputed").exists()


def test_a_table_straight_from_em(emseg, em_file, tiny_weights):
    done = emseg(
        *("segment", em_file, "c.tif", "--input-is", "em", "--table", "c.csv"),
        *("--weights", tiny_weights, "--threshold", "0.63", "--format", "fiji"),
    )
    assert done.code == 0
    cells = tifffile.imread("c.tif")
    assert cells.dtype == np.uint16
    rows = list(csv.DictReader(Path("c.csv").read_text("utf-8").splitlines()))
    assert sum(int(row["voxels"]) for row in rows) == np.count_nonzero(cells)
    known = [row["boundary_strength"] for row in rows if row["boundary_strength"]]
    assert all(0 <= float(strength) <= 1 for strength in known)
