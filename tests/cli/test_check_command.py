from __future__ import annotations

import json

import numpy as np
import pytest

from napari_emseg.io import save_stack
from napari_emseg.sample import vnc


@pytest.fixture
def spoilt() -> str:
    """Write the bundled sample with section 2 blank and section 4 moved by 30 px."""
    sections = np.array(vnc().data[:])
    sections[2] = 0
    sections[4] = np.roll(sections[4], 30, axis=1)
    save_stack("spoilt.tif", sections, voxel_size_nm=(50, 4.6, 4.6))
    return "spoilt.tif"


def test_tells_what_the_stack_is(emseg, em_file):
    done = emseg("check", em_file)
    assert done.code == 0
    assert "em: 4 sections of 96 × 112 px" in done.out
    assert "voxel size   50 × 4 × 4 nm" in done.out
    assert "grey values  uint8, " in done.out
    assert "checking: 4 of 4" in done.err


def test_an_unknown_voxel_size_names_the_option(emseg):
    save_stack("bare.tif", np.array(vnc().data[:2]))
    assert "say it with --voxel-size Z,Y,X in nm" in emseg("check", "bare.tif").out
    said = emseg("check", "bare.tif", "--voxel-size", "?,4,4").out
    assert "voxel size   ? × 4 × 4 nm" in said


def test_names_sections_that_are_worth_a_look(emseg, spoilt):
    done = emseg("check", spoilt)
    assert done.code == 0
    rows = [line.split()[:2] for line in done.out.splitlines()]
    assert ["2", "blank"] in rows
    assert ["4", "jump"] in rows
    assert ["1", "jump"] not in rows


def test_json_is_one_object(emseg, spoilt):
    record = json.loads(emseg("check", spoilt, "--json").out)
    assert record["shape"] == [6, 512, 512]
    assert record["voxel_size_nm"] == pytest.approx([50, 4.6, 4.6])
    assert record["inverted"] is False
    kinds = {(f["z"], f["kind"]) for f in record["findings"]}
    assert kinds == {(2, "blank"), (4, "jump"), (5, "jump")}


def test_limits_are_options(emseg, spoilt):
    record = json.loads(emseg("check", spoilt, "--json", "--jump", "100").out)
    assert [f["kind"] for f in record["findings"]] == ["blank"]


def test_bright_membranes_are_told(emseg):
    save_stack("inverted.tif", 255 - np.array(vnc().data[:]))
    assert (
        "look bright: emseg predict inverts them" in emseg("check", "inverted.tif").out
    )


def test_damaged_files_fail(emseg, em_file, tmp_path):
    (tmp_path / "cut.tif").write_bytes(em_file.read_bytes()[:300])
    done = emseg("check", "cut.tif")
    assert done.code == 1
    assert "cut.tif" in done.err
