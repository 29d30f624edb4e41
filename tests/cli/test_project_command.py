"""`emseg project new | show | merge`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import tifffile

from napari_emseg.io import open_stack
from napari_emseg.project import Project

PART = slice(10, 20), slice(5, 10)


def test_new_show_and_merge(emseg, em_file, tiny_weights) -> None:
    made = emseg("project", "new", em_file, "a.emseg")
    assert made.code == 0, made.err
    shutil.copytree("a.emseg", "b.emseg")
    for name, value in (("a", 1), ("b", 2)):
        with Project(f"{name}.emseg") as project:
            project.put("corrections", 1, PART, np.full((10, 5), value, np.uint8))
            project.mark([value], "reviewed")
            project.keep_weights(tiny_weights)
    shown = json.loads(emseg("project", "show", "a.emseg", "--json").out)
    assert shown["corrected_pixels"] == 50
    assert shown["reviewed"] == [1]
    assert shown["source"]["path"] == str(em_file)
    assert [w["name"] for w in shown["weights"]] == ["tiny"]
    assert shown["chosen"] == {"weights": None, "edge classifier": None}
    known = json.loads(Path("a.emseg/project.json").read_text())
    known |= {"weights": "isbi2012-unet", "weights_sha256": "0" * 64, "edges": "1" * 64}
    Path("a.emseg/project.json").write_text(json.dumps(known))
    em_file.rename(em_file.with_name("moved.tif"))
    lines = emseg("project", "show", "a.emseg").out
    assert "50 px in 1 sections" in lines
    assert "not found" in lines
    assert "isbi2012-unet, of another version" in lines
    assert "edge classifier  can't be read" in lines

    merged = emseg("project", "merge", "a.emseg", "b.emseg", "c.emseg", "--json")
    assert merged.code == 0, merged.err
    (conflict,) = json.loads(merged.out)["conflicts"]
    assert conflict["area"] == [10, 20, 5, 10]
    again = emseg("project", "merge", "a.emseg", "b.emseg", "c.emseg")
    assert again.code == 2
    assert "exists already" in again.err
    words = ("a.emseg", "b.emseg", "d.emseg", "--prefer", "second")
    assert "1 conflict" in emseg("project", "merge", *words).out
    shown = json.loads(emseg("project", "show", "d.emseg", "--json").out)
    assert shown["reviewed"] == [1, 2]
    assert shown["corrected_pixels"] == 50
    assert [w["name"] for w in shown["weights"]] == ["tiny"]


def test_what_is_no_project_is_refused(emseg, em_file) -> None:
    done = emseg("project", "show", "none.emseg")
    assert done.code == 2
    assert "no such project" in done.err


def test_export_training(emseg, em_file) -> None:
    emseg("project", "new", em_file, "a.emseg")
    with Project("a.emseg") as project:
        project.put("corrections", 1, PART, np.full((10, 5), 1, np.uint8))
        project.put("cells", 2, PART, np.full((10, 5), 7, np.uint32))
        project.mark([2], "reviewed")
    done = emseg("project", "export-training", "a.emseg", "out")
    assert done.code == 0, done.err
    facts = json.loads(Path("out/training-set.json").read_text())
    assert facts["sections"] == {"z00001.tif": 1, "z00002.tif": 2}
    assert facts["source"] == str(em_file)
    corrected, reviewed = (tifffile.imread(f"out/labels/z0000{z}.tif") for z in (1, 2))
    assert np.count_nonzero(corrected) == 50
    assert (corrected[PART] == 1).all()
    assert (reviewed[PART] == 2).all()
    assert np.count_nonzero(reviewed == 1) == reviewed.size - 50
    image = open_stack(em_file).section(2)
    np.testing.assert_array_equal(tifffile.imread("out/images/z00002.tif"), image)
    again = emseg("project", "export-training", "a.emseg", "out")
    assert again.code == 2
    assert "exists already" in again.err
